"""Prefill: keys and values of prompts, and of threads that were preempted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
from torch import Tensor

from medusa_apar.kv_cache.placement import Ints, Placement
from medusa_apar.kv_cache.slot_pool import SlotPool

from .state import LiveThread

CHUNK = 512
"""Tokens in one forward pass."""


class Prefill:
    """Computes uncomputed tokens, several threads together.

    Args:
        pools: all KV pools.
        run: the backbone's prefill.
    """

    def __init__(
        self, pools: Sequence[SlotPool], run: Callable[[Placement, Ints, Ints], tuple[Tensor, Tensor]]
    ) -> None:
        self._pools = pools
        self._run = run

    def __call__(self, threads: Sequence[LiveThread]) -> tuple[list[LiveThread], Tensor, Tensor]:
        """Compute the first `CHUNK` uncomputed tokens of some threads.

        Returns:
            The roots whose whole prompt is computed now; logits `[roots, vocabulary]` and head inputs
            `[roots, hidden_size]` after each.
        """
        before = np.cumsum([0, *(thread.uncomputed for thread in threads[:-1])]).tolist()
        taken = [thread for thread, first in zip(threads, before, strict=True) if first < CHUNK]
        counts = [min(thread.uncomputed, CHUNK - first) for thread, first in zip(taken, before, strict=False)]
        logits, hidden = self._compute(taken, counts)
        done = [at for at, thread in enumerate(taken) if thread.awaits_first_token]
        return [taken[at] for at in done], logits[done], hidden[done]

    def _compute(self, threads: Sequence[LiveThread], counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Compute so many uncomputed tokens of each thread; what comes back is at the last of them."""
        spans = [range(thread.computed, thread.computed + count) for thread, count in zip(threads, counts, strict=True)]
        positions = np.array([*chain(*spans)], dtype=np.int64)
        owner, ends = np.repeat(np.arange(len(counts)), counts), np.cumsum(counts)
        placement = Placement.acquire(
            self._pools,
            np.array([thread.pool.index for thread in threads])[owner],
            rows=np.array([thread.row for thread in threads])[owner],
            positions=positions,
            ancestors=(owner[:, None] == owner) & (positions[:, None] >= positions),
        )
        tokens = [thread.thread.token_ids[span.start : span.stop] for thread, span in zip(threads, spans, strict=True)]
        found = self._run(placement, np.array([*chain(*tokens)], dtype=np.int64), ends - 1)
        for thread, slots in zip(threads, np.split(placement.slots, ends[:-1]), strict=True):
            thread.pool.show(thread.row, slots)
            thread.computed += len(slots)
        return found
