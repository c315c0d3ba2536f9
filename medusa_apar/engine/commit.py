"""Commit: appends accepted tokens, opens children, ends threads."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medusa_apar.drafting.draft_tree import DraftTree, StepNodes
from medusa_apar.kv_cache.placement import Placement
from medusa_apar.sampling.randomness import child_key
from medusa_apar.tree.control_tokens import ControlTokens
from medusa_apar.tree.streaming import readable_token_ids

from .metrics import Metrics
from .outputs import StepOutput
from .proposals import update_acceptance
from .state import LiveThread, Request


class Commit:
    """Brings requests up to date with what a step has found out.

    Args:
        control: the control tokens; None where the backbone has none.
        context_length: tokens of the longest path.
        metrics: counts what was accepted.
    """

    def __init__(self, control: ControlTokens | None, context_length: int, metrics: Metrics) -> None:
        self._fork_token_id = None if control is None else control.fork_token_id
        self._context_length = context_length
        self._stats = metrics.stats

    def first_token(self, root: LiveThread, token: int, draft: DraftTree | None) -> None:
        """Append the first token of an answer, and keep the draft tree after it."""
        self._append(root, [token])
        root.draft_tree = draft

    def __call__(
        self, threads: Sequence[LiveThread], nodes: StepNodes, placement: Placement, output: StepOutput
    ) -> None:
        """Append what was accepted, and free the slots of what was not."""
        token_ids, sampled = nodes.token_ids.tolist(), output.sampled.tolist()  # faster one by one than arrays
        eager = np.flatnonzero(nodes.is_eager_child)
        kept = np.zeros(len(nodes), dtype=np.bool_)
        for number, (thread, path) in enumerate(zip(threads, output.paths(nodes, len(threads)), strict=True)):
            tokens = [*(token_ids[node] for node in path[1:]), sampled[path[-1]]]
            tokens = tokens[: self._until_end(thread, tokens)]
            path = path[: len(tokens)]
            update_acceptance(thread, nodes, number, path, tokens)
            appended = shown = 0
            for at in (at for at, node in enumerate(path) if token_ids[node] == self._fork_token_id):
                self._advance(thread, placement.slots[path[shown : at + 1]], tokens[appended:at])
                appended, shown = at, at + 1
                child = self._open_child(thread)
                self._stats.forks_inside_steps += shown < len(path)
                for rank in np.flatnonzero(nodes.parent[eager] == path[at]).tolist():
                    if child.thread.finish_reason is None:
                        node = eager[rank]
                        self._advance(child, placement.slots[node : node + 1], [sampled[node]])
                        child.draft_tree = output.drafts[len(threads) + rank]
                        kept[node] = True
                        self._stats.eager_children += 1
            self._advance(thread, placement.slots[path[shown:]], tokens[appended:])
            thread.draft_tree = output.drafts[number]
            kept[path] = True
        placement.give_back(~kept)
        self._stats.accepted_draft_tokens += int(np.count_nonzero(kept & ~nodes.is_eager_child)) - len(threads)

    def finish(self, request: Request) -> None:
        """Let go of threads that have ended or lie after the limit, and hand out what is readable."""
        tree = request.tree
        if request.stopping is not None or request.stream is not None:
            readable = readable_token_ids(tree)[: request.limit]
            if request.stopping is not None and (cut := request.stopping.cut(readable)) is not None:
                request.limit, request.cut_reason = cut, "stop"
            if request.stream is not None:
                request.stream.update(readable[: request.limit])
        if tree.visible_tokens() >= request.limit:
            for thread in (tree.threads[index] for index in tree.threads_after(request.limit)):
                thread.finish_reason = thread.finish_reason or request.cut_reason
        request.release([live for live in request.live if live.thread.finish_reason is not None])

    def _until_end(self, thread: LiveThread, tokens: list[int]) -> int:
        """How many of `tokens` a thread takes until an EOS or the context window ends it."""
        tokens = tokens[: self._context_length - len(thread.thread.token_ids)]
        ends = (count for count, token in enumerate(tokens, start=1) if token in thread.request.eos_token_ids)
        return next(ends, len(tokens))

    def _open_child(self, parent: LiveThread) -> LiveThread:
        child = LiveThread(
            parent.request,
            parent.request.tree.open_child(parent.index, len(parent.thread.token_ids), self._stats.steps),
            path=(*parent.path, parent.forks),
            row=parent.pool.fork_row(parent.row),
            key=child_key(parent.key, parent.forks),
            computed=parent.computed,
        )
        parent.forks += 1
        insort(parent.request.live, child, key=lambda live: live.path)
        if len(child.thread.token_ids) >= self._context_length:
            child.thread.finish_reason = "context"
        return child

    def _advance(self, thread: LiveThread, slots: NDArray[np.int64], tokens: list[int]) -> None:
        """Let a thread see the slots of its newly computed tokens, and append newly sampled ones."""
        thread.pool.show(thread.row, slots)
        thread.computed += len(slots)
        self._append(thread, tokens)

    def _append(self, live: LiveThread, tokens: list[int]) -> None:
        """Append sampled tokens; the last is pending unless it ends the thread."""
        thread = live.thread
        thread.token_ids += tokens
        thread.steps += [self._stats.steps] * len(tokens)
        if tokens and tokens[-1] in live.request.eos_token_ids:
            thread.finish_reason = "eos"
        elif len(thread.token_ids) >= self._context_length:
            thread.finish_reason = "context"
