"""Prefill: keys and values of prompts, and of threads that were preempted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from torch import Tensor

from medusa_apar.drafters.pending_tokens import ComputedNodes
from medusa_apar.kv_cache.placement import Ints, Placement
from medusa_apar.kv_cache.slot_pool import SlotPool

from .state import LiveThread

CHUNK = 512
"""Tokens in one forward pass."""


@dataclass(frozen=True, slots=True)
class Computed:
    """What a pass of prefill has found out.

    Attributes:
        roots: those whose whole prompt is computed now.
        logits: `[roots, vocabulary]` after each.
        features: `[roots, size]` there.
        nodes: of the pass, where drafters read them; else None.
        after: `[roots]` the last node of each.
    """

    roots: list[LiveThread]
    logits: Tensor
    features: Tensor
    nodes: ComputedNodes | None
    after: Ints


class Prefill:
    """Computes uncomputed tokens, several threads together.

    Args:
        pools: all KV pools.
        run: the backbone's prefill.
        read: shows a drafter what was computed; None where it need not see it.
    """

    def __init__(
        self,
        pools: Sequence[SlotPool],
        run: Callable[[Placement, Ints, Ints], tuple[Tensor, Tensor]],
        read: Callable[[ComputedNodes], None] | None = None,
    ) -> None:
        self._pools = pools
        self._run = run
        self._read = read

    def __call__(self, threads: Sequence[LiveThread]) -> Computed:
        """Compute the first `CHUNK` uncomputed tokens of some threads."""
        before = np.cumsum([0, *(thread.uncomputed for thread in threads[:-1])]).tolist()
        taken = [thread for thread, first in zip(threads, before, strict=True) if first < CHUNK]
        counts = [min(thread.uncomputed, CHUNK - first) for thread, first in zip(taken, before, strict=False)]
        last = np.cumsum(counts) - 1
        logits, features, nodes = self._compute(taken, counts, last)
        done = [at for at, thread in enumerate(taken) if thread.awaits_first_token]
        at = done if nodes is None else last[done]
        return Computed([taken[at] for at in done], logits[done], features[at], nodes, last[done])

    def _compute(
        self, threads: Sequence[LiveThread], counts: Sequence[int], last: Ints
    ) -> tuple[Tensor, Tensor, ComputedNodes | None]:
        """Compute so many uncomputed tokens of each thread; logits are those after the last of them."""
        spans = [range(thread.computed, thread.computed + count) for thread, count in zip(threads, counts, strict=True)]
        positions = np.array([*chain(*spans)], dtype=np.int64)
        owner = np.repeat(np.arange(len(counts)), counts)
        rows = np.array([thread.row for thread in threads])[owner]
        placement = Placement.acquire(
            self._pools,
            np.array([thread.pool.index for thread in threads])[owner],
            rows=rows,
            positions=positions,
            ancestors=(owner[:, None] == owner) & (positions[:, None] >= positions),
        )
        tokens = [thread.thread.token_ids[span.start : span.stop] for thread, span in zip(threads, spans, strict=True)]
        token_ids = np.array([*chain(*tokens)], dtype=np.int64)
        logits, features = self._run(placement, token_ids, last)
        nodes = None
        if self._read is not None:
            parents = np.arange(-1, len(token_ids) - 1)
            parents[[0, *(last[:-1] + 1)]] = -1
            nodes = ComputedNodes.of(placement, parents, rows, token_ids, features)
            self._read(nodes)
        for thread, slots in zip(threads, np.split(placement.slots, last[:-1] + 1), strict=True):
            thread.pool.show(thread.row, slots)
            thread.computed += len(slots)
        return logits, features, nodes
