"""Candidate trees of all threads under one budget, and the step's flat list of nodes.

Source: Medusa (Cai et al. 2024, arXiv 2401.10774), sections 2.1.2 and 2.3.3. Heads do not see each other's
guesses, so the acceptance probability of a path is taken as the product of its heads' calibrated
probabilities. It never rises along a path: taking the likeliest node of all threads, again and again, gives
trees that are closed under ancestors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import product
from math import exp

import numpy as np
from numpy.typing import NDArray

from .budget import NodeBudget
from .control_tokens import ControlTokens

ROOT = -1
"""Parent of a pending token."""


@dataclass(frozen=True, slots=True)
class Guesses:
    """What the heads guess behind a thread's pending token, best first.

    Attributes:
        token_ids: `[heads][k]`.
        log_probs: `[heads][k]`, calibrated.
    """

    token_ids: list[list[int]]
    log_probs: list[list[float]]


@dataclass(frozen=True, slots=True)
class Draft:
    """One scheduled thread, as candidate choice sees it.

    Attributes:
        pending: its pending token.
        position: path depth of the pending token.
        may_fork: whether `[Fork]` may open a child here.
        guesses: the heads' guesses; None without heads.
    """

    pending: int
    position: int
    may_fork: bool
    guesses: Guesses | None


@dataclass(slots=True)
class StepNodes:
    """The candidate nodes of one step, flat; a node stands behind its parent.

    Attributes:
        token_ids: token of each node.
        parent: index of each node's parent, `ROOT` for pending tokens.
        thread: index of each node's thread in the schedule.
        position: path depth of each node.
        forced: whether the node is an eager `[Child]`: injected, accepted with its parent, and owned by
            the thread that the parent's `[Fork]` opens.
    """

    token_ids: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    thread: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.token_ids)

    def add(self, token_id: int, parent: int, thread: int, position: int, *, forced: bool = False) -> int:
        """Append a node and return its index."""
        self.token_ids.append(token_id)
        self.parent.append(parent)
        self.thread.append(thread)
        self.position.append(position)
        self.forced.append(forced)
        return len(self.token_ids) - 1

    def truncate(self, length: int) -> None:
        """Keep the first `length` nodes."""
        for column in (self.token_ids, self.parent, self.thread, self.position, self.forced):
            del column[length:]


def choose_nodes(
    drafts: Sequence[Draft], budget: NodeBudget, control: ControlTokens | None, context_length: int
) -> StepNodes:
    """Lay out the pending tokens of all threads and the guesses that are worth a node.

    Nodes come likeliest first over all threads; `budget` says behind which of them to cut. An eager
    `[Child]` is as likely as the `[Fork]` above it.

    Args:
        drafts: the scheduled threads.
        budget: how many nodes a step should carry.
        control: the control tokens; None where the backbone has none.
        context_length: no node is laid at this position or behind it.
    """
    nodes = StepNodes()
    frontier = _Frontier(drafts, nodes, control, context_length)
    for thread, draft in enumerate(drafts):
        frontier.open(nodes.add(draft.pending, ROOT, thread, draft.position), 0.0, level=0)
    best = len(nodes)
    tally = budget.start(threads=len(nodes))
    for log_prob in frontier:
        if tally.add(exp(log_prob)):
            best = len(nodes)
        elif tally.exhausted:
            break
    nodes.truncate(best)
    return nodes


class _Frontier:
    """Nodes that may come next, likeliest first; iterating lays them out one by one."""

    def __init__(
        self, drafts: Sequence[Draft], nodes: StepNodes, control: ControlTokens | None, context_length: int
    ) -> None:
        self.drafts, self.nodes, self.control, self.context_length = drafts, nodes, control, context_length
        self._heap: list[tuple[float, int, int, int, int]] = []
        self._pushed = 0

    def open(self, node: int, log_prob: float, level: int) -> None:
        """Put a node's first guess, and its eager `[Child]`, on the frontier."""
        draft = self.drafts[self.nodes.thread[node]]
        if self.nodes.position[node] + 1 >= self.context_length:
            return
        if draft.may_fork and self.control is not None and self.nodes.token_ids[node] == self.control.fork_token_id:
            self._push(log_prob, node, level, rank=-1)
        if draft.guesses is not None and level < len(draft.guesses.token_ids):
            self._push(log_prob + draft.guesses.log_probs[level][0], node, level, rank=0)

    def _push(self, log_prob: float, parent: int, level: int, rank: int) -> None:
        # The running number breaks ties in favour of the older, hence shallower, entry.
        heappush(self._heap, (-log_prob, self._pushed, parent, level, rank))
        self._pushed += 1

    def __iter__(self) -> Iterator[float]:
        nodes = self.nodes
        while self._heap:
            negative, _, parent, level, rank = heappop(self._heap)
            thread, position = nodes.thread[parent], nodes.position[parent] + 1
            if rank < 0:
                assert self.control is not None
                nodes.add(self.control.child_token_id, parent, thread, position, forced=True)
            else:
                guesses = self.drafts[thread].guesses
                assert guesses is not None
                log_probs = guesses.log_probs[level]
                self.open(nodes.add(guesses.token_ids[level][rank], parent, thread, position), -negative, level + 1)
                if rank + 1 < len(log_probs):
                    self._push(log_probs[rank + 1] - log_probs[rank] - negative, parent, level, rank + 1)
            yield -negative


def ancestors(parent: Sequence[int]) -> NDArray[np.bool_]:
    """`[nodes, nodes]`; (i, j) is true where node j is i or stands above i.

    Args:
        parent: index of each node's parent, always smaller than its own; `ROOT` at roots.
    """
    above = np.eye(len(parent), dtype=np.bool_)
    for node, over in enumerate(parent):
        if over != ROOT:
            above[node] |= above[over]
    return above


def cartesian_tree(widths: Sequence[int]) -> list[tuple[int, ...]]:
    """All paths of ranks of medusa-llm's cartesian tree, breadth first, without the root.

    `widths[k]` best guesses of head k + 1 stand under every node of level k.
    """
    return [path for level in range(1, len(widths) + 1) for path in product(*map(range, widths[:level]))]
