"""How many KV pools an engine has, and how large they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medusa_apar.kv_cache.capacity import slots_that_fit
from medusa_apar.kv_cache.slot_pool import EXTENT_BUCKET, SlotPool
from medusa_apar.runner.model_runner import ModelRunner

_COMMON_ANSWER = 512
"""Tokens for which a pool has room from the beginning; it grows where an answer is longer."""


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What there is room for.

    Attributes:
        runner: of the model whose keys and values are kept.
        slots: of all pools together.
    """

    runner: ModelRunner
    slots: int

    @staticmethod
    def of(runner: ModelRunner, max_slots: int | None = None) -> PoolPlan:
        """So many slots; by default what the device can hold."""
        return PoolPlan(runner, slots_that_fit(runner.model, runner.kv_dtype) if max_slots is None else max_slots)

    def pools(self, requests: int, longest: int, lengths: Sequence[tuple[int, int]] = ()) -> list[SlotPool]:
        """A pool for each request where all together can hold their longest paths, else one that they share.

        Args:
            requests: that are decoded together.
            longest: slots of the longest path of any.
            lengths: of those that are known, tokens of the prompt and limit of the answer.
        """
        separate = self.runner.separates_pools and self.slots >= longest * requests
        count = requests if separate else 1
        capacity = max(_first_capacity(lengths[first::count]) for first in range(count))
        return self.runner.new_pools(count, capacity, self.slots // count)


def _first_capacity(lengths: Sequence[tuple[int, int]]) -> int:
    """Slots for prompts and for answers of a common length."""
    wanted = sum(prompt + min(limit, _COMMON_ANSWER) for prompt, limit in lengths) + EXTENT_BUCKET
    return -(-wanted // EXTENT_BUCKET) * EXTENT_BUCKET - 1  # with slot 0, whole buckets
