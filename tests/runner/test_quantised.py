"""Quantised backbones, with heads in half precision beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel, TorchAoConfig

from medusa_apar import MedusaAparModel, MedusaHeads

from ..conftest import CONTROL, EOS, VOCABULARY, random_heads
from ..engine.test_lossless import batch, decode
from ..oracle import Oracle
from .test_backbones import MAX_DEPTH, backbone

HIDDEN = 64


def quantised(folder: Path, config: Any) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A forking backbone, and what `from_pretrained` makes of it in float32 with some quantisation."""
    whole = backbone("llama", dtype=torch.float32, hidden_size=HIDDEN, intermediate_size=2 * HIDDEN)
    whole.save_pretrained(folder)
    return whole, AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.float32)


def four_bits(**options: Any) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32, **options
    )


def eight_bits(**options: Any) -> Any:
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig(), **options)


CONFIGS = [
    pytest.param(four_bits, {}, id="bitsandbytes, 4 bits"),
    pytest.param(four_bits, {"llm_int8_skip_modules": []}, id="bitsandbytes, 4 bits, lm_head too"),
    pytest.param(eight_bits, {}, id="torchao, int8", marks=pytest.mark.torchao),
    pytest.param(
        eight_bits, {"modules_to_not_convert": []}, id="torchao, int8, lm_head too", marks=pytest.mark.torchao
    ),
]


@pytest.mark.parametrize("shared_projection", [False, True])
@pytest.mark.parametrize(("config", "options"), CONFIGS)
def test_weight_only_quantised_backbones_are_decoded_losslessly(
    config: Any, options: dict[str, Any], shared_projection: bool, tmp_path: Path
) -> None:
    whole, model = quantised(tmp_path, config(**options))
    heads = MedusaHeads.for_backbone(model, num_heads=3, shared_projection=shared_projection)
    assert (heads.config.vocab_size, heads.config.hidden_size) == (VOCABULARY, HIDDEN)
    assert heads.dtype == torch.float32
    if not shared_projection:
        away = (heads.heads[0].projection.weight - whole.lm_head.weight).abs().max()
        assert away < 0.25, "heads start with the weights that lm_head stands for"
    wrapped = MedusaAparModel(model, heads.to(torch.bfloat16))
    _, ids, mask = batch(seed=4, lengths=(5, 9, 3, 7))
    output = decode(wrapped, ids, mask, nodes_per_step=12)
    assert output.trees is not None
    assert sum(len(tree.threads) for tree in output.trees) > 4
    oracle = Oracle(model, CONTROL, EOS, MAX_DEPTH)
    for tree in output.trees:
        oracle.check(tree)


def test_a_backbone_with_quantised_activations_decodes(tmp_path: Path) -> None:
    _, model = quantised(tmp_path, BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=[]))
    _, ids, mask = batch(seed=4)
    output = decode(MedusaAparModel(model, random_heads(model).to(torch.bfloat16)), ids, mask, nodes_per_step=12)
    assert output.stats is not None
    assert output.stats.tokens_per_step > 1
