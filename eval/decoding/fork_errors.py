"""Forks that go wrong at a given rate: what happens to answers when a model decides badly where to fork."""

from __future__ import annotations

from enum import StrEnum
from zlib import crc32

import torch
from torch import Tensor
from transformers import LogitsProcessor

SPACING = 20
"""Text tokens that have as many spurious forks among them as other errors befall one fork of the model's own."""
DELAY = 4
"""Tokens by which a misplaced fork comes too late."""
_SEEN = 8
"""Tokens of a context that decide whether an error happens behind it."""


class ForkError(StrEnum):
    """A way to fork wrongly."""

    SPURIOUS = "spurious"
    """A fork where the model wants none."""
    MISSING = "missing"
    """No fork where the model wants one: it goes on with its second choice."""
    MISPLACED = "misplaced"
    """A fork that comes `DELAY` tokens too late."""


class ForkErrors(LogitsProcessor):
    """Makes a backbone fork wrongly.

    Whether an error happens depends on the context alone, so that an answer is the same whatever the schedule.

    Args:
        error: how.
        rate: of the forks that the model wants how many go wrong; of spurious ones, how many there are in `SPACING`
            text tokens.
        fork_token_id: `[Fork]`.
        eos_token_ids: tokens in whose place nothing is forked.

    Raises:
        ValueError: for a rate that is none.
    """

    def __init__(self, error: ForkError, rate: float, fork_token_id: int, eos_token_ids: frozenset[int]) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"fork_error_rate={rate} is not between 0 and 1")
        self.error = error
        self.rate = rate / SPACING if error is ForkError.SPURIOUS else rate
        self.fork_token_id = fork_token_id
        self.eos_token_ids = eos_token_ids
        self._delayed: set[tuple[int, ...]] = set()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Change the scores `[rows, vocabulary]` behind contexts `[rows, length]` where an error happens."""
        scores = scores.clone()
        wanted = scores.argmax(dim=-1).tolist()
        for row, context in enumerate(input_ids.tolist()):
            happens = crc32(repr((self.error, context[-_SEEN:])).encode()) < self.rate * 2**32
            forks = wanted[row] == self.fork_token_id
            if self.error is ForkError.SPURIOUS:
                if happens and not forks and wanted[row] not in self.eos_token_ids:
                    self._force(scores[row])
                continue
            if forks and happens:
                scores[row, self.fork_token_id] = -torch.inf
                self._delayed.add(tuple(context))
            elif self.error is ForkError.MISPLACED and tuple(context[:-DELAY]) in self._delayed:
                self._force(scores[row])
        return scores

    def _force(self, scores: Tensor) -> None:
        scores[self.fork_token_id] = scores.max() + 1
