"""A byte-level tokenizer and a random tiny Llama, made in a moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from medusa_apar.tree.control_tokens import CHILD, FORK, ControlTokens

from ..fixtures.tiny_recipe import CHAT_TEMPLATE
from .hub import Hub


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Where `--push_to_hub` pushes to."""
    hub = Hub()
    monkeypatch.setattr("transformers.trainer.hf_api", lambda: hub)
    return hub


def byte_tokenizer(*, control_tokens: bool) -> PreTrainedTokenizerFast:
    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"] + [FORK, CHILD] * control_tokens
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate([*special, *alphabet])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=special[2:],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def tiny_llama(
    tokenizer: PreTrainedTokenizerFast, *, spare_rows: int = 0, context: int = 512, tied: bool = False
) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer) + spare_rows,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.2,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, chat marks, EOS and the control tokens."""
    return byte_tokenizer(control_tokens=True)


@pytest.fixture(scope="session")
def plain_tokenizer() -> PreTrainedTokenizerFast:
    """The same without control tokens."""
    return byte_tokenizer(control_tokens=False)


@pytest.fixture(scope="session")
def tiny_backbone_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A random Llama with the control tokens, saved with its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny_backbone")
    torch.manual_seed(0)
    model = tiny_llama(tiny_tokenizer)
    ControlTokens.of_tokenizer(tiny_tokenizer).record_in(model.config)
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def save_backbone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Save a random Llama for a tokenizer, with `tiny_llama`'s options."""

    def save(tokenizer: PreTrainedTokenizerFast, **options: int) -> Path:
        folder = tmp_path_factory.mktemp("backbone")
        torch.manual_seed(0)
        tiny_llama(tokenizer, **options).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save
