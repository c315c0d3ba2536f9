"""EAGLE-3 heads beside the speculators package: the same draft logits, prefix by prefix, level by level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, Qwen3Config

from medusa_apar.heads import Eagle3Heads
from medusa_apar.heads.checkpoints.loading import load_heads

from .conftest import HIDDEN, VOCAB
from .eagle3_checkpoints import write_speculators
from .test_eagle3 import NORMS, eagle3_heads

pytestmark = pytest.mark.speculators

LENGTH, LEVELS = 9, 3


@torch.inference_mode()
def their_logits(folder: Path, tokens: Tensor, auxiliary: Tensor) -> list[Tensor]:
    """`[prefixes, logits]` for every level, each after the right tokens."""
    from speculators.models.eagle3 import Eagle3DraftModel, Eagle3SpeculatorConfig

    config = Eagle3SpeculatorConfig.from_pretrained(folder)
    config.transformer_layer_config._attn_implementation = "eager"
    model: Any = Eagle3DraftModel(config)
    from safetensors.torch import load_file

    missing = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False).missing_keys
    assert all(name.startswith("verifier_") for name in missing)
    found: list[Tensor] = []
    model.lm_head.register_forward_hook(lambda _, __, output: found.append(output[0]))
    model.eval()(
        hidden_states=auxiliary[None, :-1],
        input_ids=tokens[None, 1:],
        document_ids=torch.zeros(1, LENGTH - 1, dtype=torch.long),
        ttt_steps=LEVELS,
    )
    return found


@torch.inference_mode()
def our_logits(heads: Eagle3Heads, backbone: LlamaForCausalLM, tokens: Tensor, auxiliary: Tensor) -> list[Tensor]:
    heads.layer.self_attn.config._attn_implementation = "eager"
    levels: list[list[Tensor]] = [[] for _ in range(LEVELS)]
    for prefix in range(1, LENGTH):
        states, cache = heads.fused(auxiliary[:prefix]), DynamicCache()
        for at in range(1, min(prefix + LEVELS, LENGTH)):
            after, logits = heads.advance(
                states[at - 1][None], tokens[at : at + 1], torch.tensor([at]), backbone.get_input_embeddings(),
                torch.zeros(1, 1, 1, at), cache,
            )  # fmt: skip
            if at >= prefix:
                states = torch.cat([states, after])
                levels[at - prefix].append(logits[0])
    return [torch.stack(level) for level in levels]


@pytest.mark.parametrize("norms", NORMS.values(), ids=list(NORMS))
@pytest.mark.parametrize("kind", [LlamaConfig, Qwen3Config])
def test_draft_logits_are_theirs(
    kind: type, norms: dict[str, bool], backbone: LlamaForCausalLM, tmp_path: Path
) -> None:
    folder = write_speculators(eagle3_heads(kind=kind, own_embeddings=True, **norms), tmp_path)
    tokens, auxiliary = torch.randint(VOCAB, (LENGTH,)), torch.randn(LENGTH, 3 * HIDDEN)
    heads = load_heads(folder, backbone)
    assert isinstance(heads, Eagle3Heads)
    ours, theirs = our_logits(heads, backbone, tokens, auxiliary), their_logits(folder, tokens, auxiliary)
    for mine, wanted in zip(ours, theirs, strict=True):
        assert len(mine) >= LENGTH - LEVELS
        assert torch.allclose(mine, wanted[: len(mine)], atol=1e-5)
