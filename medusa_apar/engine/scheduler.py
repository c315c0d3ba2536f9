"""Which threads take part in a step, and which give up their slots when a pool is full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from medusa_apar.kv_cache.slot_pool import SlotPool

from .metrics import Metrics
from .state import LiveThread, Request


class Scheduler:
    """Owns the order of requests and threads.

    Args:
        pools: KV pools among which requests are dealt out.
        metrics: counts preemptions.
    """

    def __init__(self, pools: Sequence[SlotPool], metrics: Metrics) -> None:
        self.pools = pools
        self._metrics = metrics
        self._requests: list[list[Request]] = [[] for _ in pools]

    @property
    def requests(self) -> Iterator[Request]:
        """Those that have not ended."""
        return chain(*self._requests)

    def add(self, request: Request) -> None:
        """Give a request the pool that the fewest others share."""
        pool, sharing = min(zip(self.pools, self._requests, strict=True), key=lambda pair: len(pair[1]))
        sharing.append(request)
        request.pool = pool
        request.live = [LiveThread(request, index=0, path=(), row=pool.open_row(), key=request.key)]

    def remove(self, request: Request) -> None:
        """Free all slots of a request."""
        for thread in request.live:
            thread.pool.close_row(thread.row)
        request.live = []
        self.forget_ended()

    def forget_ended(self) -> None:
        """Let go of requests without live threads."""
        for sharing in self._requests:
            sharing[:] = [request for request in sharing if request.live]

    def schedule(self) -> list[LiveThread]:
        """The threads of the next step: parents before children, as many as there is room for."""
        return [thread for sharing in self._requests for thread in self._fitting(sharing)]

    def room(self, threads: Sequence[LiveThread]) -> int:
        """Nodes for which every pool of these threads has slots."""
        counts = np.bincount([thread.pool.index for thread in threads], minlength=len(self.pools)).tolist()
        spare = min(pool.room - count for pool, count in zip(self.pools, counts, strict=True) if count)
        return len(threads) + int(spare)

    def _fitting(self, sharing: Sequence[Request]) -> list[LiveThread]:
        """The threads of a pool's requests that fit into it: always the first one."""
        queue = [thread for request in sharing for thread in request.live[: request.max_threads]]
        if not queue:
            return []
        pool = queue[0].pool
        wanted = np.cumsum([thread.uncomputed + 1 for thread in queue])
        fitting = int(np.searchsorted(wanted, pool.room, side="right"))
        if fitting == 0:
            self._preempt(pool, [thread for request in sharing for thread in request.live], int(wanted[0]))
            fitting = 1
        return queue[:fitting]

    def _preempt(self, pool: SlotPool, by_priority: list[LiveThread], slots: int) -> None:
        """Take slots from the last threads of a pool until there is room for `slots` more; never from the first thread.

        A thread loses the slots that no earlier thread sees. They hold the last tokens of its path, which are computed
        again when it is its turn.
        """
        for kept in range(len(by_priority) - 1, 0, -1):
            earlier = [thread.row for thread in by_priority[:kept]]
            needed: NDArray[np.bool_] = np.logical_or.reduce(pool.visible[earlier])
            for thread in by_priority[kept:]:
                pool.hide(thread.row, ~needed)
                thread.computed = int(np.count_nonzero(pool.visible[thread.row]))
            self._metrics.stats.preemptions += 1
            if pool.room >= slots:
                return
