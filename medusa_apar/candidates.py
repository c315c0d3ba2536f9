"""Candidate trees of all threads under one budget, and the step's flat list of nodes.

Source: Medusa (Cai et al. 2024, arXiv 2401.10774), sections 2.1.2 and 2.3.3. Heads do not see each other's
guesses, so the acceptance probability of a path is taken as the product of its heads' calibrated
probabilities. It never rises along a path, so the likeliest candidates of all threads are closed under
ancestors once ties go to the shallower node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from .budget import NodeBudget
from .control_tokens import ControlTokens

ROOT = -1
"""Parent of a pending token."""

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Guesses:
    """What the heads guess behind one pending token, best first.

    Attributes:
        token_ids: `[heads, k]` int64.
        log_probs: `[heads, k]` float, calibrated.
    """

    token_ids: Ints
    log_probs: Scores


@dataclass(frozen=True, slots=True)
class Draft:
    """One scheduled thread, as candidate choice sees it.

    Attributes:
        pending: its pending token.
        position: path depth of the pending token.
        may_fork: whether `[Fork]` may open a child here.
        guesses: the heads' guesses; None where there are none.
    """

    pending: int
    position: int
    may_fork: bool
    guesses: Guesses | None


@dataclass(frozen=True, slots=True)
class StepNodes:
    """The candidate nodes of one step, flat; a node stands behind its parent, the pending tokens first.

    Attributes:
        token_ids: `[nodes]`.
        parent: `[nodes]` index of each node's parent, `ROOT` for pending tokens.
        thread: `[nodes]` index of each node's thread in the schedule.
        position: `[nodes]` path depth.
        forced: `[nodes]` whether the node is an eager `[Child]`: injected, accepted with its parent, and
            owned by the thread that the parent's `[Fork]` opens.
    """

    token_ids: Ints
    parent: Ints
    thread: Ints
    position: Ints
    forced: Flags

    def __len__(self) -> int:
        return len(self.token_ids)

    def ancestors(self) -> Flags:
        """`[nodes, nodes]`; (i, j) is true where node j is i or stands above i."""
        return ancestors(self.parent)


def choose_nodes(
    drafts: Sequence[Draft],
    budget: NodeBudget,
    control: ControlTokens | None,
    context_length: int,
    room: int | None = None,
) -> StepNodes:
    """Lay out the pending tokens of all threads and the guesses that are worth a node.

    Nodes come likeliest first over all threads; `budget` says behind which of them to cut. An eager
    `[Child]` is as likely as the `[Fork]` above it.

    Args:
        drafts: the scheduled threads.
        budget: how many nodes a step should carry.
        control: the control tokens; None where the backbone has none.
        context_length: no node is laid at this position or behind it.
        room: nodes that the KV pool has slots for, at least one per thread.
    """
    threads = len(drafts)
    most = budget.most_nodes(threads)
    most = most if room is None else min(most, room)
    layout = _Layout(drafts, control, context_length)
    if budget.choices is not None:
        layout.lay_fixed_tree(budget.choices)
    else:
        layout.lay_likeliest(most - threads)
    token_ids, parent, thread, level, forced, scores = layout.columns()

    # Stable: among equals the older, hence shallower, node comes first.
    order = np.argsort(-scores, kind="stable")[:most]
    order = order[: threads + budget.cut(threads, np.exp(scores[order[threads:]]))]
    place = np.full(len(scores) + 1, ROOT, dtype=np.int64)
    place[order] = np.arange(len(order))
    thread = thread[order]
    return StepNodes(
        token_ids=token_ids[order],
        parent=place[parent[order]],
        thread=thread,
        position=layout.start[thread] + level[order],
        forced=forced[order],
    )


class _Layout:
    """Candidates of all threads, laid out level by level, parents before children."""

    def __init__(self, drafts: Sequence[Draft], control: ControlTokens | None, context_length: int) -> None:
        count = len(drafts)
        self.start = np.array([draft.position for draft in drafts], dtype=np.int64)
        self._may_fork = np.array([draft.may_fork for draft in drafts], dtype=np.bool_)
        self._control = control
        self._context_length = context_length
        self._columns: list[tuple[Ints, Ints, Ints, Scores]] = []
        self._levels: list[tuple[int, int, bool]] = []
        self._count = 0
        guesses = [draft.guesses for draft in drafts if draft.guesses is not None]
        self._heads = len(guesses[0].token_ids) if guesses else 0
        self._guess_row = np.arange(count)
        if len(guesses) < count:
            guessed = np.array([draft.guesses is not None for draft in drafts])
            self._guess_row = np.where(guessed, np.cumsum(guessed) - 1, -1)
        if guesses:
            self._token_ids = np.stack([guess.token_ids for guess in guesses])  # [guessed, heads, k]
            self._log_probs = np.minimum(np.stack([guess.log_probs for guess in guesses]), 0.0)
            self._impossible = bool(self._log_probs.min() == -np.inf)
        # Where every thread has guesses and is far from the context's end, nothing has to be left out at any level.
        self._open_everywhere = len(guesses) == count and int(self.start.max()) + self._heads < context_length
        pending = np.array([draft.pending for draft in drafts], dtype=np.int64)
        self._add(pending, np.full(count, ROOT), np.arange(count), 0, np.zeros(count))

    def lay_likeliest(self, most: int) -> None:
        """Add the likeliest candidates, at least the `most` likeliest of all.

        Keeping the `most` best of each level is exact: what lies under a candidate is no likelier than it.
        """
        for level in range(1, self._heads + 1):
            node, thread, scores = self._open(level)
            if most <= 0 or not len(node):
                return
            rows = self._guess_row[thread]
            tokens = self._token_ids[rows, level - 1]
            every = scores[:, None] + self._log_probs[rows, level - 1]  # [frontier, k]
            flat = every.ravel()
            best = (-flat).argsort(kind="stable")[:most]
            if self._impossible:
                best = best[flat[best] > -np.inf]
            parent = best // every.shape[1]
            self._add(tokens.ravel()[best], node[parent], thread[parent], level, flat[best])

    def lay_fixed_tree(self, choices: Sequence[tuple[int, ...]]) -> None:
        """Add the same tree of ranks behind every pending token, all of it: `choices` as medusa-llm lists them."""
        paths = sorted(choices, key=lambda path: (len(path), path))
        for level in range(1, self._heads + 1):
            here = [path for path in paths if len(path) == level]
            if not here:
                return
            above = {path: rank for rank, path in enumerate([p for p in [(), *paths] if len(p) == level - 1])}
            node, thread, scores = self._open(level)
            threads = len(np.unique(thread))
            if not threads:
                return
            # The frontier lists, for each path of the level above, all threads.
            parent = np.array([above[path[:-1]] for path in here])[:, None] * threads + np.arange(threads)
            ranks = np.array([path[-1] for path in here])[:, None]
            rows = self._guess_row[thread[parent]]
            self._add(
                self._token_ids[rows, level - 1, ranks].ravel(),
                node[parent].ravel(),
                thread[parent].ravel(),
                level,
                (scores[parent] + self._log_probs[rows, level - 1, ranks]).ravel(),
            )

    def columns(self) -> tuple[Ints, Ints, Ints, Ints, Flags, Scores]:
        """Token ids, parents, threads, levels, forced flags and scores of all candidates."""
        token_ids, parent, thread, scores = (np.concatenate(column) for column in zip(*self._columns, strict=True))
        counts, levels, forced = zip(*self._levels, strict=True)
        return token_ids, parent, thread, np.repeat(levels, counts), np.repeat(forced, counts), scores

    def _open(self, level: int) -> tuple[Ints, Ints, Scores]:
        """The frontier's nodes behind which a guess may stand, their threads and scores."""
        if self._open_everywhere:
            return self._frontier
        node, thread, scores = self._frontier
        open_ = (self._guess_row[thread] >= 0) & (self.start[thread] + level < self._context_length)
        return node[open_], thread[open_], scores[open_]

    def _add(self, token_ids: Ints, parent: Ints, thread: Ints, level: int, scores: Scores) -> None:
        """Add a level, which becomes the frontier, and the eager `[Child]` of every `[Fork]` in it."""
        node = self._append(token_ids, parent, thread, level, scores)
        self._frontier = node, thread, scores
        if self._control is None:
            return
        forks = np.flatnonzero(token_ids == self._control.fork_token_id)
        if len(forks):
            at = thread[forks]
            forks = forks[self._may_fork[at] & (self.start[at] + level + 1 < self._context_length)]
            children = np.full(len(forks), self._control.child_token_id)
            self._append(children, node[forks], thread[forks], level + 1, scores[forks], forced=True)

    def _append(
        self, token_ids: Ints, parent: Ints, thread: Ints, level: int, scores: Scores, *, forced: bool = False
    ) -> Ints:
        self._columns.append((token_ids, parent, thread, scores))
        self._levels.append((len(token_ids), level, forced))
        self._count += len(token_ids)
        return np.arange(self._count - len(token_ids), self._count)


def ancestors(parent: Sequence[int] | Ints) -> Flags:
    """`[nodes, nodes]`; (i, j) is true where node j is i or stands above i.

    Args:
        parent: index of each node's parent; `ROOT` at roots.
    """
    parent = np.asarray(parent)
    above = np.eye(len(parent), dtype=np.bool_)
    node, over = np.arange(len(parent)), parent
    while True:
        below = over != ROOT
        if not below.any():
            return above
        node, over = node[below], over[below]
        above[node, over] = True
        over = parent[over]


def cartesian_tree(widths: Sequence[int]) -> list[tuple[int, ...]]:
    """All paths of ranks of medusa-llm's cartesian tree, breadth first, without the root.

    `widths[k]` best guesses of head k + 1 stand under every node of level k.
    """
    return [path for level in range(1, len(widths) + 1) for path in product(*map(range, widths[:level]))]
