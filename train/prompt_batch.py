"""Prompts of several lengths as batches for `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

T = TypeVar("T")

BATCHES_IN_A_CALL = 4
"""Batches of prompts that one `generate(max_batch=...)` answers; the batch stays full until the last of them."""


def split_into_calls(prompts: Sequence[T], batch: int, ways: int = 1) -> list[list[T]]:
    """Split prompts into those that one call of `generate` answers.

    Args:
        prompts: all of them.
        batch: prompts that are answered together.
        ways: number of ways to answer; there are as many calls, or more, if there are as many batches.
    """
    size = min(BATCHES_IN_A_CALL * batch, max(batch, -(-len(prompts) // ways)))
    return [list(prompts[start : start + size]) for start in range(0, len(prompts), size)]


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
