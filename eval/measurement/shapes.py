"""Llamas of given sizes with random weights: time does not depend on what the weights are."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

_LLAMA: dict[str, Any] = {"vocab_size": 32000, "max_position_embeddings": 32768, "tie_word_embeddings": False}
SHAPES: dict[str, dict[str, Any]] = {
    "llama-7b": _LLAMA
    | {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "llama-13b": _LLAMA
    | {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
    "llama-1b": _LLAMA
    | {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32}
    | {"num_key_value_heads": 4},
    "llama-110m": _LLAMA
    | {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12}
    | {"tie_word_embeddings": True},
    "llama-42m": _LLAMA
    | {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8}
    | {"tie_word_embeddings": True},
    "llama-15m": _LLAMA
    | {"hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6}
    | {"tie_word_embeddings": True},
    "tiny": _LLAMA
    | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"vocab_size": 256},
}
"""Sizes of the published Llama models, TinyLlama and smaller ones for CPUs, and one that tries scripts out."""


def random_model(
    shape: str, device: torch.device, dtype: torch.dtype = torch.bfloat16, **sizes: int
) -> PreTrainedModel:
    """A Llama of a shape with random weights, made on the device itself; `sizes` replace some of the shape's."""
    with device:
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPES[shape] | sizes), dtype=dtype)
    return cast(PreTrainedModel, cast(nn.Module, model).eval())
