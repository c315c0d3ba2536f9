from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from medusa_apar.heads import MedusaHeads

HIDDEN, VOCAB = 16, 31


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def backbone() -> LlamaForCausalLM:
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=VOCAB,
        max_position_embeddings=64,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def random_heads(backbone: LlamaForCausalLM) -> Callable[..., MedusaHeads]:
    """Makes heads whose blocks and projections differ from each other and from the backbone's `lm_head`."""

    def make(**shape: Any) -> MedusaHeads:
        heads = MedusaHeads.for_backbone(backbone, **shape)
        for parameter in heads.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        heads.eval()
        return heads

    return make


@pytest.fixture
def heads(random_heads: Callable[..., MedusaHeads]) -> MedusaHeads:
    return random_heads(num_heads=3)


@pytest.fixture
def own_checkpoint(heads: MedusaHeads, tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    heads.save_pretrained(folder)
    return folder


@pytest.fixture
def hidden_states() -> torch.Tensor:
    return torch.randn(2, 5, HIDDEN)
