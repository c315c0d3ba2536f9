"""Preemption: the threads that are last in the schedule give up their slots when a pool is full."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medusa_apar.kv_cache.slot_pool import SlotPool

from .state import LiveThread


def preempt(pool: SlotPool, by_priority: Sequence[LiveThread], slots: int) -> int:
    """Take slots from the last threads of a pool until there is room for `slots` more; never from the first thread.

    A thread loses the slots that no earlier thread sees. They hold the last tokens of its path, which are computed
    again when it is its turn.

    Args:
        pool: the full one.
        by_priority: its live threads in schedule order.
        slots: that are needed.

    Returns:
        How many threads were preempted.
    """
    for kept in range(len(by_priority) - 1, 0, -1):
        earlier = [thread.row for thread in by_priority[:kept]]
        needed: NDArray[np.bool_] = np.logical_or.reduce(pool.visible[earlier])
        for thread in by_priority[kept:]:
            pool.hide(thread.row, ~needed)
            thread.computed = int(np.count_nonzero(pool.visible[thread.row]))
        if pool.room >= slots:
            return len(by_priority) - kept
    return max(0, len(by_priority) - 1)
