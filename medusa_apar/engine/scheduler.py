"""Which threads take part in a step, and which give up their slots when a pool is full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from medusa_apar.kv_cache.slot_pool import SlotPool

from .metrics import Metrics
from .pools import begin
from .preemption import preempt
from .state import LiveThread, Request


class Scheduler:
    """Owns the order of requests and threads.

    Args:
        pools: KV pools among which requests are dealt out.
        metrics: counts preemptions.
    """

    def __init__(self, pools: Sequence[SlotPool], metrics: Metrics) -> None:
        self._pools = pools
        self._metrics = metrics
        self._waiting: list[Request] = []
        self._requests: list[list[Request]] = [[] for _ in pools]

    @property
    def requests(self) -> Iterator[Request]:
        """Those that have not ended."""
        return chain(*self._requests, self._waiting)

    def add(self, request: Request) -> None:
        """Let a request begin as soon as no prompt that its own begins like is being computed."""
        self._waiting.append(request)

    def remove(self, request: Request) -> None:
        """Free all slots of a request."""
        self._waiting = [waiting for waiting in self._waiting if waiting is not request]
        request.release(list(request.live))
        self.forget_ended()

    def forget_ended(self) -> None:
        """Let go of requests without live threads."""
        for sharing in self._requests:
            sharing[:] = [request for request in sharing if request.live]

    def schedule(self) -> list[LiveThread]:
        """The threads of the next step: parents before children, as many as there is room for."""
        self._waiting = [request for request in self._waiting if not begin(request, self._pools, self._requests)]
        return [thread for sharing in self._requests for thread in self._fitting(sharing)]

    def room(self, threads: Sequence[LiveThread]) -> int:
        """Nodes for which every pool of these threads has slots."""
        counts = np.bincount([thread.pool.index for thread in threads], minlength=len(self._pools)).tolist()
        return len(threads) + int(min(pool.room - own for pool, own in zip(self._pools, counts, strict=True) if own))

    def _fitting(self, sharing: Sequence[Request]) -> list[LiveThread]:
        """The threads of a pool's requests that fit into it: always the first one."""
        queue = [thread for request in sharing for thread in request.live[: request.max_threads]]
        if not queue:
            return []
        wanted = np.cumsum([thread.uncomputed + 1 for thread in queue])
        fitting = int(np.searchsorted(wanted, queue[0].pool.room, side="right"))
        if not fitting:
            live = [thread for request in sharing for thread in request.live]
            self._metrics.stats.preemptions += preempt(queue[0].pool, live, int(wanted[0]))
        return queue[: max(1, fitting)]
