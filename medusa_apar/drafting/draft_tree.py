"""Draft trees of all threads under one budget, and the step's flat list of nodes.

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
from .ngrams import Continuation

ROOT = -1
"""Parent of a pending token."""

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DraftTree:
    """What the heads propose after one pending token, a level's best draft token first.

    Attributes:
        token_ids: `[levels, width]` int64.
        parents: `[levels, width]` int64, places in the level above; without meaning in the first level.
        log_probs: `[levels, width]` of the paths, calibrated, never rising along a path; -inf where there is no token.
    """

    token_ids: Ints
    parents: Ints
    log_probs: Scores

    def deepened(self, levels: int) -> DraftTree:
        """The same in so many levels, of which the further ones hold no token."""
        further = (0, levels - len(self.token_ids)), (0, 0)
        return DraftTree(
            np.pad(self.token_ids, further),
            np.pad(self.parents, further),
            np.pad(self.log_probs, further, constant_values=-np.inf),
        )


@dataclass(frozen=True, slots=True)
class ThreadDraft:
    """One scheduled thread, as the choice of nodes sees it.

    Attributes:
        pending: its pending token.
        position: path depth of the pending token.
        may_fork: whether `[Fork]` may open a child here.
        tree: what the heads propose; None where they propose nothing.
        continuation: what its n-grams propose; likewise.
    """

    pending: int
    position: int
    may_fork: bool
    tree: DraftTree | None
    continuation: Continuation | None = None


@dataclass(frozen=True, slots=True)
class StepNodes:
    """The nodes of one step, flat; a node comes after its parent, the pending tokens first.

    Attributes:
        token_ids: `[nodes]`.
        parent: `[nodes]` index of each node's parent, `ROOT` for pending tokens.
        thread: `[nodes]` index of each node's thread in the schedule.
        position: `[nodes]` path depth.
        is_eager_child: `[nodes]` whether the node is a `[Child]` that was injected: it is accepted with its parent, and
            belongs to the thread that the parent's `[Fork]` opens.
        is_from_heads: `[nodes]` whether the heads proposed the node; the other draft tokens come from n-grams alone.
    """

    token_ids: Ints
    parent: Ints
    thread: Ints
    position: Ints
    is_eager_child: Flags
    is_from_heads: Flags

    def __len__(self) -> int:
        return len(self.token_ids)

    def ancestors(self) -> Flags:
        """`[nodes, nodes]`; (i, j) is true where node j is i or above i."""
        return ancestors(self.parent)


def choose_nodes(
    drafts: Sequence[ThreadDraft],
    budget: NodeBudget,
    control: ControlTokens | None,
    context_length: int,
    room: int | None = None,
) -> StepNodes:
    """Lay out the pending tokens of all threads and the draft tokens that are worth a node.

    Nodes come likeliest first over all threads; `budget` says after which of them to cut. An eager
    `[Child]` is as likely as the `[Fork]` above it.

    Args:
        drafts: the scheduled threads.
        budget: how many nodes a step should carry.
        control: the control tokens; None where the backbone has none.
        context_length: no node is laid at this position or after it.
        room: nodes that the KV pool has slots for, at least one per thread.
    """
    threads = len(drafts)
    most = budget.most_nodes(threads)
    most = most if room is None else min(most, room)
    start = np.array([draft.position for draft in drafts], dtype=np.int64)
    may_fork = np.array([draft.may_fork for draft in drafts], dtype=np.bool_)
    every = _candidates(drafts)
    for number, draft in enumerate(drafts):
        if draft.continuation is not None:
            every = every.with_continuation(number, draft.continuation)
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
        is_eager_child=every.is_eager_child[order],
        is_from_heads=every.is_from_heads[order],
    )


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Pending tokens and all draft tokens, level by level.

    Attributes:
        token_ids, thread, level: `[candidates]`.
        parent: `[candidates]` index of the candidate above; `ROOT` for pending tokens.
        score: `[candidates]` log-probability of the path; -inf where there is no token.
        is_eager_child: `[candidates]` whether it is an eager `[Child]`.
        is_from_heads: `[candidates]` whether the heads proposed it.
    """

    token_ids: Ints
    parent: Ints
    thread: Ints
    level: Ints
    score: Scores
    is_eager_child: Flags
    is_from_heads: Flags

    def with_continuation(self, thread: int, continuation: Continuation) -> _Candidates:
        """The same, with what n-grams propose after a thread's pending token.

        As long as that is what the heads propose as well, the better of both scores counts.
        """
        own = np.flatnonzero((self.thread == thread) & (self.score > -np.inf)).tolist()
        known = dict(zip(zip(self.parent[own].tolist(), self.token_ids[own].tolist(), strict=True), own, strict=True))
        score, node, shared = self.score.copy(), thread, 0
        for token, log_prob in zip(continuation.token_ids, continuation.log_probs, strict=True):
            if (found := known.get((node, token))) is None:
                break
            score[found] = max(score[found], log_prob)
            node, shared = found, shared + 1
        added, first = len(continuation.token_ids) - shared, len(score)
        parents = [node, *range(first, first + added - 1)][:added]
        return _Candidates(
            np.append(self.token_ids, np.array(continuation.token_ids[shared:], dtype=np.int64)),
            np.append(self.parent, np.array(parents, dtype=np.int64)),
            np.append(self.thread, np.full(added, thread)),
            np.append(self.level, np.arange(shared + 1, shared + added + 1)),
            np.append(score, continuation.log_probs[shared:]),
            np.append(self.is_eager_child, np.zeros(added, dtype=np.bool_)),
            np.append(self.is_from_heads, np.zeros(added, dtype=np.bool_)),
        )

    def with_children(self, forks: Ints, child_token_id: int) -> _Candidates:
        """The same, and after them a `[Child]` under each of some candidates."""
        return _Candidates(
            np.append(self.token_ids, np.full(len(forks), child_token_id)),
            np.append(self.parent, forks),
            np.append(self.thread, self.thread[forks]),
            np.append(self.level, self.level[forks] + 1),
            np.append(self.score, self.score[forks]),
            np.append(self.is_eager_child, np.ones(len(forks), dtype=np.bool_)),
            np.append(self.is_from_heads, np.zeros(len(forks), dtype=np.bool_)),
        )


def _candidates(drafts: Sequence[ThreadDraft]) -> _Candidates:
    threads = len(drafts)
    drafting = [thread for thread, draft in enumerate(drafts) if draft.tree is not None]
    trees = [draft.tree for draft in drafts if draft.tree is not None]
    deepest = max((len(tree.token_ids) for tree in trees), default=0)
    trees = [tree if len(tree.token_ids) == deepest else tree.deepened(deepest) for tree in trees]
    token_ids = np.array([draft.pending for draft in drafts], dtype=np.int64)
    parent, thread = np.full(threads, ROOT), np.arange(threads)
    level, score = np.zeros(threads, dtype=np.int64), np.zeros(threads)
    if trees:
        # [levels, drafting, width]: shallow tokens of all threads before deep ones.
        drafted = np.stack([one.token_ids for one in trees], axis=1)
        levels, _, width = drafted.shape
        above = np.stack([one.parents for one in trees], axis=1)
        first = np.arange(0, len(drafting) * width, width)[:, None]  # of each thread, within a level
        above[1:] += threads + first + (np.arange(levels - 1) * len(drafting) * width)[:, None, None]
        above[0] = np.array(drafting)[:, None]
        token_ids, parent = np.append(token_ids, drafted), np.append(parent, above)
        thread = np.append(thread, np.tile(np.repeat(drafting, width), levels))
        level = np.append(level, np.repeat(np.arange(1, levels + 1), len(drafting) * width))
        score = np.append(score, np.stack([one.log_probs for one in trees], axis=1))
    return _Candidates(
        token_ids,
        parent,
        thread,
        level,
        score,
        is_eager_child=np.zeros(len(token_ids), dtype=np.bool_),
        is_from_heads=np.arange(len(token_ids)) >= threads,
    )


def ancestors(parent: Sequence[int] | Ints) -> Flags:
    """`[nodes, nodes]`; (i, j) is true where node j is i or above i.

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
