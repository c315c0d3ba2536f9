"""Logits processors that OpenAI's clients ask for and transformers has none of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor


class AnswerPenalty(LogitsProcessor):
    """Takes from the scores of tokens that the answer has; the prompt does not count.

    Source: OpenAI's API reference, `presence_penalty` and `frequency_penalty`.

    Args:
        presence: taken once from each of them.
        frequency: taken as often as the answer has it.
        prompt_length: tokens before the answer.
    """

    def __init__(self, presence: float, frequency: float, prompt_length: int) -> None:
        self.presence = presence
        self.frequency = frequency
        self.prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        answer = input_ids[:, self.prompt_length :]
        counts = torch.zeros_like(scores).scatter_add(1, answer, torch.ones_like(answer, dtype=scores.dtype))
        return scores - self.frequency * counts - self.presence * (counts > 0)


class TokenBias(LogitsProcessor):
    """Adds to the scores of some tokens.

    Args:
        bias: token ids and what is added.
    """

    def __init__(self, bias: Sequence[tuple[int, float]]) -> None:
        self.token_ids = torch.tensor([token for token, _ in bias])
        self.bias = torch.tensor([value for _, value in bias])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.index_add(1, self.token_ids.to(scores.device), self.bias.to(scores).expand(len(scores), -1))
