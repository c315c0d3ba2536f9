"""Counters and stopwatches of an engine, kept beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from time import perf_counter
from typing import ParamSpec, TypeVar

from medusa_apar.drafting.draft_tree import StepNodes
from medusa_apar.kv_cache.slot_pool import SlotPool
from medusa_apar.output import DecodingStats

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Metrics:
    """Fills in a `DecodingStats`.

    Attributes:
        stats: the figures so far.
    """

    def __init__(self) -> None:
        self.stats = DecodingStats()
        self._start = perf_counter()

    def timed(self, figure: str, call: Callable[_P, _R]) -> Callable[_P, _R]:
        """A function that does the same, and adds the time that it takes to a figure."""

        @wraps(call)
        def timed(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            start = perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                setattr(self.stats, figure, getattr(self.stats, figure) + perf_counter() - start)

        return timed

    def host_timer(self) -> Callable[[], float]:
        """Start a stopwatch: seconds since then that were spent outside the backbone and the heads."""
        start, before = perf_counter(), self.stats.backbone_seconds + self.stats.head_seconds

        def seconds() -> float:
            model = self.stats.backbone_seconds + self.stats.head_seconds - before
            return perf_counter() - start - model

        return seconds

    def count_step(self, nodes: StepNodes, pools: Sequence[SlotPool]) -> None:
        """Count a step whose slots are held."""
        if not self.stats.steps:
            self.stats.first_token_seconds = perf_counter() - self._start
        self.stats.steps += 1
        self.stats.forward_nodes += len(nodes)
        self.stats.attended_pairs += int(nodes.position.sum()) + len(nodes)
        self.stats.slots_by_step.append(sum(pool.held for pool in pools))
