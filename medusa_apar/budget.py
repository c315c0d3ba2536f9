"""How many nodes a step should carry on this hardware.

With g(n) the expected number of accepted nodes among the n likeliest ones, T threads and c(m) the time of a
forward pass over m nodes, a step yields T + g(n) tokens in c(T + n): take the n of the best ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median
from time import perf_counter

import numpy as np

MEASURED_NODES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
ENOUGH_SECONDS = 3.0
"""Time after which measuring the cost curve ends with the round that it is in."""
PATIENCE = 12
"""Nodes looked at without an improvement before the search ends."""


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Time of a forward pass by its number of nodes.

    Attributes:
        seconds: entry m is the time over m nodes; entry 0 is unused. Never falls with m.
    """

    seconds: tuple[float, ...]

    @staticmethod
    def measure(forward: Callable[[int], None], repeats: int = 5) -> CostCurve:
        """Time `forward(nodes)` at a few sizes and join them by straight lines.

        A first round warms up; a slow model is timed fewer times.
        """
        begin = perf_counter()
        times: dict[int, list[float]] = {nodes: [] for nodes in MEASURED_NODES}
        for nodes in MEASURED_NODES:
            forward(nodes)
        for done in range(repeats):
            if done and perf_counter() - begin > ENOUGH_SECONDS:
                break
            for nodes in MEASURED_NODES:
                start = perf_counter()
                forward(nodes)
                times[nodes].append(perf_counter() - start)
        return CostCurve.through(MEASURED_NODES, [median(times[nodes]) for nodes in MEASURED_NODES])

    @staticmethod
    def through(nodes: Sequence[int], seconds: Sequence[float]) -> CostCurve:
        """The rising curve through measured points."""
        rising = np.maximum.accumulate(seconds)
        return CostCurve(tuple(np.interp(range(max(nodes) + 1), nodes, rising).tolist()))

    def __call__(self, nodes: int) -> float:
        """Seconds of a forward pass; beyond the measured range it rises on in proportion."""
        last = len(self.seconds) - 1
        return self.seconds[nodes] if nodes <= last else self.seconds[last] * nodes / last


class NodeBudget:
    """Says behind which candidate node a step should stop.

    Args:
        cost: the cost curve; None together with `nodes_per_step`.
        nodes_per_step: carry this many nodes, whatever they cost (never fewer than there are threads).
    """

    def __init__(self, cost: CostCurve | None = None, nodes_per_step: float | None = None) -> None:
        if (cost is None) == (nodes_per_step is None):
            raise ValueError("a node budget needs a cost curve or nodes_per_step, and not both")
        if nodes_per_step is not None and nodes_per_step < 1:
            raise ValueError(f"nodes_per_step={nodes_per_step} is below 1")
        self.cost = cost
        self.nodes_per_step = nodes_per_step

    @staticmethod
    def unlimited() -> NodeBudget:
        """Carry every candidate that there is."""
        return NodeBudget(nodes_per_step=inf)

    def start(self, threads: int) -> Tally:
        """Begin a step whose pending tokens are `threads` nodes."""
        return Tally(self, threads)


class Tally:
    """Running yield of a step while candidates are added, likeliest first."""

    def __init__(self, budget: NodeBudget, threads: int) -> None:
        self._budget = budget
        self._nodes = threads
        self._yield = float(threads)
        self._best = 0.0 if budget.cost is None else threads / budget.cost(threads)
        self._fruitless = 0

    @property
    def exhausted(self) -> bool:
        """Whether looking at further candidates is not worth it."""
        if self._budget.nodes_per_step is not None:
            return self._nodes >= self._budget.nodes_per_step
        return self._fruitless >= PATIENCE

    def add(self, probability: float) -> bool:
        """Add a candidate; True where the step is best cut right behind it, as far as is known."""
        self._nodes += 1
        self._yield += probability
        if self._budget.nodes_per_step is not None:
            return self._nodes <= self._budget.nodes_per_step
        assert self._budget.cost is not None
        ratio = self._yield / self._budget.cost(self._nodes)
        if ratio <= self._best:
            self._fruitless += 1
            return False
        self._best, self._fruitless = ratio, 0
        return True
