"""A tokenizer of bytes, and tiny backbones for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformers import LlamaConfig, PreTrainedTokenizerFast

from ..train.conftest import byte_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and the special tokens."""
    return byte_tokenizer(control_tokens=True)


@pytest.fixture(scope="session")
def tiny_config(tokenizer: PreTrainedTokenizerFast) -> Callable[..., LlamaConfig]:
    """Makes configs of tiny backbones for the tokenizer."""

    def make(**given: Any) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=256, pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id, **given,
        )  # fmt: skip

    return make
