"""Prompts of several lengths as one batch for `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase


def left_padded(
    prompts: Sequence[list[int]], tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> dict[str, Any]:
    """`input_ids` and `attention_mask`, both `[batch, length]` int64, padded on the left.

    Args:
        prompts: token ids.
        tokenizer: of the padding token; EOS where it has none.
        device: of the tensors.
    """
    length = max(map(len, prompts))
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    ids = [[pad] * (length - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device)}
