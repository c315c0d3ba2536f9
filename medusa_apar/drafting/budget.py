"""How many nodes a step should carry on this hardware.

With g(n) the expected number of accepted nodes among the n likeliest ones, T threads and c(m) the time of a
step over m nodes, a step yields T + g(n) tokens in c(T + n): take the n of the best ratio.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from sys import maxsize
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from medusa_apar.drafters.drafter import Beam, DraftShape

MEASURED_NODES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
ENOUGH_SECONDS = 6.0
"""Time after which measuring the cost curve ends with the round that it is in."""
COMMON = 16
"""Larger counts are rare and take long: they are timed in the first rounds alone."""
COMPLETE_ROUNDS = 2


@dataclass(frozen=True)
class CostCurve:
    """Time by a count, such as a forward pass's by its number of nodes.

    Attributes:
        seconds: entry m is the time at a count of m; entry 0 is unused. Never falls with m.
    """

    seconds: tuple[float, ...]

    @cached_property
    def _array(self) -> NDArray[np.float64]:
        return np.array(self.seconds)

    @staticmethod
    def measure(
        run: Callable[[int], None],
        counts: Sequence[int] = MEASURED_NODES,
        *,
        between: Callable[[], None] = lambda: None,
        repeats: int = 9,
    ) -> CostCurve:
        """Time `run(count)` at a few counts and join them by straight lines.

        A first round warms up, and so does a call before each timed one, as decoding keeps to one size for a while.
        The fastest time counts: whatever else the machine does only ever adds to it.

        Args:
            run: what to time.
            counts: at which.
            between: what decoding does in between, which takes the processor's caches; it is not timed.
            repeats: rounds.
        """
        times: dict[int, list[float]] = {count: [] for count in counts}
        for count in counts:  # the first of them may compile
            run(count)
            between()
        begin = perf_counter()
        for done in tqdm(range(repeats), desc="measuring step times", leave=False, delay=1.0):
            if done and perf_counter() - begin > ENOUGH_SECONDS:
                break
            for count in (count for count in counts if count <= COMMON or done < COMPLETE_ROUNDS):
                run(count)
                between()
                start = perf_counter()
                run(count)
                times[count].append(perf_counter() - start)
        return CostCurve.through(counts, [min(times[count]) for count in counts])

    @staticmethod
    def through(counts: Sequence[int], seconds: Sequence[float]) -> CostCurve:
        """The rising curve through measured points."""
        rising = np.maximum.accumulate(seconds)
        return CostCurve(tuple(np.interp(range(max(counts) + 1), counts, rising).tolist()))

    @property
    def last(self) -> int:
        """The largest measured count."""
        return len(self.seconds) - 1

    def __call__(self, count: int) -> float:
        """Seconds at a count; beyond the measured range time rises on in proportion."""
        return self.seconds[min(count, self.last)] * max(count / self.last, 1.0)

    def stretch(self, start: int, length: int) -> NDArray[np.float64]:
        """Seconds at a count and those after it, `length` of them."""
        if start + length <= len(self.seconds):
            return self._array[start : start + length]
        counts = np.arange(start, start + length)
        beyond: NDArray[np.float64] = self._array[np.minimum(counts, self.last)] * np.maximum(counts / self.last, 1.0)
        return beyond


@dataclass(frozen=True, slots=True)
class StepCost:
    """What a step costs on this hardware.

    Attributes:
        forward: the backbone's forward pass by its nodes.
        drafting: the heads by their rows, for each beam; the widest and deepest first. Empty without heads.
        slots: for which attention computed scores, for each node, when the forward pass was timed.
        per_pair: seconds that each pair of a node and a further slot takes.
    """

    forward: CostCurve
    drafting: dict[Beam, CostCurve]
    slots: float = 0.0
    per_pair: float = 0.0


class NodeBudget(ABC):
    """Says after which node a step is cut, and what is worth drafting for the next one."""

    @abstractmethod
    def most_nodes(self, threads: int) -> int:
        """Nodes that a step of so many threads may carry at most, their pending tokens included."""

    @abstractmethod
    def cut(self, threads: int, probabilities: NDArray[np.float64]) -> int:
        """How many draft tokens to keep.

        Args:
            threads: pending tokens, which are always kept.
            probabilities: `[draft tokens]` of acceptance, falling.
        """

    @abstractmethod
    def shape(self, threads: int, expected: NDArray[np.float64] | None) -> DraftShape | None:
        """What the heads should draft for the next step; None: nothing.

        Args:
            threads: its pending tokens.
            expected: `[levels, width]` how likely draft tokens after a pending token are accepted, the best of a level
                first; None where nothing is known of it.
        """

    def record(self, slots: float, host_seconds: float) -> None:
        """Take note of a step.

        Args:
            slots: for which attention computed scores, for each node, padding included.
            host_seconds: outside the backbone and the heads.
        """
        return


class FixedBudget(NodeBudget):
    """Carry so many nodes, whatever they cost (never fewer than there are threads).

    Args:
        nodes_per_step: how many.
        shape: what the heads draft; None where there are none.

    Raises:
        ValueError: for less than one node.
    """

    def __init__(self, nodes_per_step: int = maxsize, shape: DraftShape | None = None) -> None:
        if nodes_per_step < 1:
            raise ValueError(f"nodes_per_step={nodes_per_step} is below 1; pass a positive number")
        self._nodes_per_step = nodes_per_step
        self._shape = shape

    def most_nodes(self, threads: int) -> int:
        return max(threads, self._nodes_per_step)

    def cut(self, threads: int, probabilities: NDArray[np.float64]) -> int:
        return min(len(probabilities), self.most_nodes(threads) - threads)

    def shape(self, threads: int, expected: NDArray[np.float64] | None) -> DraftShape | None:
        return self._shape


class MeasuredBudget(NodeBudget):
    """Carry the nodes that give the most tokens in a second.

    To the measured costs come the slots that attention runs over now, and what the host takes, as the last steps tell.
    The heads draft what pays best: trees or, for many threads, single paths; all the tokens ahead or, where the later
    ones are seldom accepted, the next few; nothing where none of that is expected to pay. Every probe interval a step
    drafts all it can, to see whether that has changed. The interval doubles while it has not.

    Args:
        cost: what steps cost.
    """

    PROBE_INTERVAL = 12
    """Steps with smaller draft trees until one drafts all again, at first."""
    LONGEST_INTERVAL = 96
    """The same, after many probes that changed nothing."""
    MEMORY = 0.9
    """Weight of the past in running means."""

    def __init__(self, cost: StepCost) -> None:
        self._cost = cost
        self._all = next(iter(cost.drafting), None)
        self._paying = self._all  # what paid best for the last step, whatever a probe drafted
        self._per_node = 0.0  # seconds of a node beyond the measured cost: attention over more slots
        self._host_seconds = 0.0  # of a step outside the backbone and the heads, running mean
        self._since_probe = 0
        self._interval = self.PROBE_INTERVAL

    def most_nodes(self, threads: int) -> int:
        return threads + self._cost.forward.last

    def cut(self, threads: int, probabilities: NDArray[np.float64]) -> int:
        tokens = threads + np.concatenate([[0.0], np.cumsum(probabilities)])
        nodes = threads + np.arange(len(tokens))
        forward = self._cost.forward.stretch(threads, len(tokens)) + self._per_node * nodes
        heads = 0.0 if self._paying is None else self._cost.drafting[self._paying](threads)
        return int((tokens / (forward + heads + self._host_seconds)).argmax())

    def shape(self, threads: int, expected: NDArray[np.float64] | None) -> Beam | None:
        if expected is None:
            return self._all
        best = self._best(threads, expected)
        if best == self._all or (best is None) != (self._paying is None):
            self._since_probe, self._interval = 0, self.PROBE_INTERVAL
        self._paying = best
        if best == self._all:
            return best
        if self._since_probe >= self._interval:
            self._since_probe, self._interval = 0, min(2 * self._interval, self.LONGEST_INTERVAL)
            return self._all
        self._since_probe += 1
        return best

    def _best(self, threads: int, expected: NDArray[np.float64]) -> Beam | None:
        """What gives the most tokens in a second, with as many draft tokens of each thread as pay."""
        nodes = threads * np.arange(1, 2 + expected.size)
        step = self._cost.forward.stretch(threads, nodes[-1] - threads + 1)[::threads]
        step = step + self._per_node * nodes + self._host_seconds
        best, most = None, 1 / step[0]
        for beam, cost in self._cost.drafting.items():
            falling = np.sort(expected[: beam.levels, : beam.width], axis=None)[::-1]
            tokens = 1 + np.cumsum(
                falling
            )  # of a thread that carries its best draft token, its two best ones, and so on
            pace = (tokens / (step[1 : 1 + len(tokens)] + cost(threads))).max()
            if pace > most:
                best, most = beam, pace
        return best

    def record(self, slots: float, host_seconds: float) -> None:
        self._per_node = self._cost.per_pair * max(0.0, slots - self._cost.slots)
        self._host_seconds += (1 - self.MEMORY) * (host_seconds - self._host_seconds)
