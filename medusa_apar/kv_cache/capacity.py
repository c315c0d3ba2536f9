"""How many KV slots a device has memory for."""

from __future__ import annotations

import psutil
import torch
from transformers import PreTrainedModel

SHARE = 0.3
"""Share of the free memory that the pool may take; growing holds the old and the new tensors for a moment."""


def slot_bytes(model: PreTrainedModel, dtype: torch.dtype | None = None) -> int:
    """Bytes of one token's keys and values in all layers; by default in the model's dtype."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    element: int = torch.finfo(dtype or model.dtype).bits // 8
    size: int = 2 * config.num_hidden_layers * kv_heads * head_dim * element
    return size


def slots_that_fit(model: PreTrainedModel, dtype: torch.dtype | None = None) -> int:
    """Slots that the model's device can hold now beside what else is in its memory.

    What torch keeps of memory that it no longer uses counts as free: the pools of earlier calls lay there.
    """
    if model.device.type == "cuda":
        kept = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
        free = torch.cuda.mem_get_info(model.device)[0] + kept
    else:
        free = psutil.virtual_memory().available
    return int(SHARE * free) // slot_bytes(model, dtype)
