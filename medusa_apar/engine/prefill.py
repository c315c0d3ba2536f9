"""Prefill: keys and values of prompts, and of threads that were preempted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from torch import Tensor

from medusa_apar.drafters.pending_tokens import Run
from medusa_apar.kv_cache.placement import Ints
from medusa_apar.kv_cache.slot_pool import SlotPool

from .outputs import PrefillOutput
from .pools import place
from .state import LiveThread

CHUNK = 512
"""Tokens in one forward pass."""


class Prefill:
    """Computes uncomputed tokens, several threads together.

    Args:
        pools: all KV pools.
        run: the backbone's prefill.
    """

    def __init__(self, pools: Sequence[SlotPool], run: Run) -> None:
        self._pools = pools
        self._run = run

    def __call__(self, threads: Sequence[LiveThread]) -> PrefillOutput:
        """Compute the first `CHUNK` uncomputed tokens of some threads."""
        before = np.cumsum([0, *(thread.uncomputed for thread in threads[:-1])]).tolist()
        taken = [thread for thread, first in zip(threads, before, strict=True) if first < CHUNK]
        counts = [min(thread.uncomputed, CHUNK - first) for thread, first in zip(taken, before, strict=False)]
        last = np.cumsum(counts) - 1
        logits, features = self._compute(taken, counts, last)
        done = [at for at, thread in enumerate(taken) if thread.awaits_first_token]
        features = features[last[done] if len(features) > len(logits) else done]  # of all nodes, or of the last ones
        return PrefillOutput([taken[at] for at in done], logits[done], features, last[done])

    def _compute(self, threads: Sequence[LiveThread], counts: list[int], last: Ints) -> tuple[Tensor, Tensor]:
        """Compute so many uncomputed tokens of each thread; logits are those after the last of them."""
        spans = [range(thread.computed, thread.computed + count) for thread, count in zip(threads, counts, strict=True)]
        positions = np.array([*chain(*spans)], dtype=np.int64)
        owner = np.repeat(np.arange(len(counts)), counts)
        ancestors = (owner[:, None] == owner) & (positions[:, None] >= positions)
        placement = place(self._pools, threads, owner, positions, ancestors)
        tokens = [thread.thread.token_ids[span.start : span.stop] for thread, span in zip(threads, spans, strict=True)]
        token_ids = np.array([*chain(*tokens)], dtype=np.int64)
        computed = self._run(placement, token_ids, last)
        for thread, slots in zip(threads, np.split(placement.slots, last[:-1] + 1), strict=True):
            thread.pool.show(thread.row, slots)
            thread.computed += len(slots)
            thread.pool.keep_path(thread.row, thread.prefix)
        return computed
