"""Candidate trees of all threads under one budget, and the step's flat list of nodes.

Source: Medusa (Cai et al. 2024, arXiv 2401.10774), sections 2.1.2 and 2.3.3. The acceptance probability of a path never
rises along it, so the likeliest candidates of all threads are closed under ancestors once ties go to the shallower
node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medusa_apar.tree.control_tokens import ControlTokens

from .budget import NodeBudget

ROOT = -1
"""Parent of a pending token."""

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Guesses:
    """The tree that the heads guess behind one pending token, a level's best guess first.

    Attributes:
        token_ids: `[levels, width]` int64.
        parents: `[levels, width]` int64, places in the level above; without meaning in the first level.
        log_probs: `[levels, width]` of the paths, calibrated, never rising along a path; -inf where there is no guess.
    """

    token_ids: Ints
    parents: Ints
    log_probs: Scores

    def deepened(self, levels: int) -> Guesses:
        """The same in so many levels, of which the further ones hold no guess."""
        further = (0, levels - len(self.token_ids)), (0, 0)
        return Guesses(
            np.pad(self.token_ids, further),
            np.pad(self.parents, further),
            np.pad(self.log_probs, further, constant_values=-np.inf),
        )


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
    start = np.array([draft.position for draft in drafts], dtype=np.int64)
    may_fork = np.array([draft.may_fork for draft in drafts], dtype=np.bool_)
    every = _with_guesses(drafts)
    depth = start[every.thread] + every.level
    possible = (every.score > -np.inf) & (depth < context_length)
    if control is not None:
        forks = every.token_ids == control.fork_token_id
        if forks.any():
            forking = forks & possible & may_fork[every.thread] & (depth + 1 < context_length)
            every = every.with_children(np.flatnonzero(forking), control.child_token_id)
            possible = np.append(possible, np.ones(len(every.token_ids) - len(possible), dtype=np.bool_))

    # Stable: among equals the shallower node comes first.
    order = np.argsort(-every.score, kind="stable")
    order = order[possible[order]][:most]
    order = order[: threads + budget.cut(threads, np.exp(every.score[order[threads:]]))]
    place = np.full(len(every.token_ids) + 1, ROOT, dtype=np.int64)
    place[order] = np.arange(len(order))
    thread, level = every.thread[order], every.level[order]
    return StepNodes(
        token_ids=every.token_ids[order],
        parent=place[every.parent[order]],
        thread=thread,
        position=start[thread] + level,
        forced=every.forced[order],
    )


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Pending tokens and all guesses, level by level.

    Attributes:
        token_ids, thread, level: `[candidates]`.
        parent: `[candidates]` index of the candidate above; `ROOT` for pending tokens.
        score: `[candidates]` log-probability of the path; -inf where there is no guess.
        forced: `[candidates]` whether it is an eager `[Child]`.
    """

    token_ids: Ints
    parent: Ints
    thread: Ints
    level: Ints
    score: Scores
    forced: Flags

    def with_children(self, forks: Ints, child_token_id: int) -> _Candidates:
        """The same, and behind them a `[Child]` under each of some candidates."""
        return _Candidates(
            np.append(self.token_ids, np.full(len(forks), child_token_id)),
            np.append(self.parent, forks),
            np.append(self.thread, self.thread[forks]),
            np.append(self.level, self.level[forks] + 1),
            np.append(self.score, self.score[forks]),
            np.append(self.forced, np.ones(len(forks), dtype=np.bool_)),
        )


def _with_guesses(drafts: Sequence[Draft]) -> _Candidates:
    threads = len(drafts)
    guessing = [thread for thread, draft in enumerate(drafts) if draft.guesses is not None]
    guesses = [draft.guesses for draft in drafts if draft.guesses is not None]
    deepest = max((len(one.token_ids) for one in guesses), default=0)
    guesses = [one if len(one.token_ids) == deepest else one.deepened(deepest) for one in guesses]
    token_ids = np.array([draft.pending for draft in drafts], dtype=np.int64)
    parent, thread = np.full(threads, ROOT), np.arange(threads)
    level, score = np.zeros(threads, dtype=np.int64), np.zeros(threads)
    if guesses:
        # [levels, guessing, width]: shallow guesses of all threads before deep ones.
        guessed = np.stack([one.token_ids for one in guesses], axis=1)
        levels, _, width = guessed.shape
        above = np.stack([one.parents for one in guesses], axis=1)
        first = np.arange(0, len(guessing) * width, width)[:, None]  # of each thread, within a level
        above[1:] += threads + first + (np.arange(levels - 1) * len(guessing) * width)[:, None, None]
        above[0] = np.array(guessing)[:, None]
        token_ids, parent = np.append(token_ids, guessed), np.append(parent, above)
        thread = np.append(thread, np.tile(np.repeat(guessing, width), levels))
        level = np.append(level, np.repeat(np.arange(1, levels + 1), len(guessing) * width))
        score = np.append(score, np.stack([one.log_probs for one in guesses], axis=1))
    return _Candidates(token_ids, parent, thread, level, score, np.zeros(len(token_ids), dtype=np.bool_))


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
