"""The decoding loop: schedule, choose nodes, forward, verify, commit, draft.

All live threads of all requests share one forward pass, and one attention mask, per step.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .backbone import Backbone
from .budget import NodeBudget
from .candidates import Draft, Guesses, StepNodes, ancestors, choose_nodes
from .control_tokens import ControlTokenRules, ControlTokens
from .drafting import Drafter
from .kv_pool import SlotPool
from .output import DecodingStats
from .paragraph_tree import ParagraphTree, Thread
from .streaming import ReadingOrderStream
from .verification import accept

PREFILL_CHUNK = 512
"""Prompt tokens in one forward pass."""


@dataclass(slots=True, eq=False)
class Request:
    """One row of a batch while it is decoded.

    Attributes:
        prompt: its token ids, unpadded.
        max_new_tokens: visible tokens of the answer.
        tree: its threads.
        live: its running threads in schedule order.
        stream: where readable text goes, if anywhere.
    """

    prompt: list[int]
    max_new_tokens: int
    tree: ParagraphTree
    live: list[LiveThread] = field(default_factory=list)
    stream: ReadingOrderStream | None = None


@dataclass(slots=True, eq=False)
class LiveThread:
    """A thread that still runs. The last of its tokens is the pending one: chosen, keys and values not yet computed.

    Attributes:
        request: whose thread it is.
        index: its place in `request.tree.threads`.
        path: ordinals of the forks that lead to it; sorts parents before children, children in reading order.
        row: its row of the pool's `visible`.
        forks: children opened so far.
        guesses: what the heads guess behind the pending token.
    """

    request: Request
    index: int
    path: tuple[int, ...]
    row: int
    forks: int = 0
    guesses: Guesses | None = None

    @property
    def thread(self) -> Thread:
        """The thread's tokens."""
        return self.request.tree.threads[self.index]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a forward pass decided, by node.

    Attributes:
        chosen: the backbone's token after the node.
        accepted: whether the node stands.
    """

    chosen: list[int]
    accepted: list[bool]


class Decoder:
    """Decodes requests together.

    Args:
        backbone: the model.
        drafter: guesses of the Medusa heads; None decodes without.
        control: the control tokens; None where the backbone has none.
        fork: whether threads may fork.
        budget: how many nodes a step carries.
        eos_token_ids: tokens that end a thread.
        max_threads: threads of one request in a step; the others wait.
        max_depth: threads of this depth do not fork.
    """

    def __init__(
        self,
        backbone: Backbone,
        drafter: Drafter | None,
        control: ControlTokens | None,
        *,
        fork: bool,
        budget: NodeBudget,
        eos_token_ids: Iterable[int],
        max_threads: int,
        max_depth: int,
    ) -> None:
        self.backbone = backbone
        self.drafter = drafter
        self.control = control
        self.fork = fork
        self.budget = budget
        self.eos_token_ids = frozenset(eos_token_ids)
        self.max_threads = max_threads
        self.max_depth = max_depth
        self.stats = DecodingStats()
        self.pool: SlotPool

    def decode(self, requests: Sequence[Request]) -> None:
        """Decode requests to their ends. Afterwards, also after an interruption, no thread is live and no row open."""
        self.pool = self.backbone.new_pool(_first_capacity(requests))
        try:
            for request in requests:
                self._prefill(request)
                self._settle(request)
            while scheduled := self._schedule(requests):
                nodes = choose_nodes(
                    [self._draft(thread) for thread in scheduled],
                    self.budget,
                    self.control if self.fork else None,
                    self.backbone.context_length,
                )
                self._step(scheduled, nodes)
                for request in requests:
                    self._settle(request)
        finally:
            for request in requests:
                for thread in request.live:
                    self.pool.close_row(thread.row)
                request.live.clear()

    def _prefill(self, request: Request) -> None:
        root = LiveThread(request, index=0, path=(), row=self.pool.open_row())
        request.live.append(root)
        for start in range(0, len(request.prompt), PREFILL_CHUNK):
            chunk = request.prompt[start : start + PREFILL_CHUNK]
            slots = self.pool.acquire(len(chunk))
            mask = self.pool.mask([root.row] * len(chunk), slots, np.tri(len(chunk), dtype=np.bool_))
            positions = list(range(start, start + len(chunk)))
            with self._timed("backbone_seconds"):
                logits, hidden = self.backbone.forward(self.pool, slots, chunk, positions, mask, last_only=True)
            self.pool.show(root.row, slots)
        chosen = self._choose(logits, torch.tensor(request.prompt[-1:], device=logits.device), [self._may_fork(root)])
        self._extend(root, int(chosen))
        self._draft_behind([(root, 0)], hidden)

    def _schedule(self, requests: Sequence[Request]) -> list[LiveThread]:
        return [thread for request in requests for thread in request.live[: self.max_threads]]

    def _draft(self, live: LiveThread) -> Draft:
        token_ids = live.thread.token_ids
        return Draft(token_ids[-1], len(token_ids) - 1, self._may_fork(live), live.guesses)

    def _step(self, scheduled: list[LiveThread], nodes: StepNodes) -> None:
        slots = self.pool.acquire(len(nodes))
        above = ancestors(nodes.parent)
        mask = self.pool.mask([scheduled[thread].row for thread in nodes.thread], slots, above)
        self._count(nodes)
        with self._timed("backbone_seconds"):
            logits, hidden = self.backbone.forward(self.pool, slots, nodes.token_ids, nodes.position, mask)
        verdict = self._verify(scheduled, nodes, above, logits)
        leaves = self._commit(scheduled, nodes, slots, verdict)
        self._draft_behind(leaves, hidden)

    def _verify(
        self, scheduled: list[LiveThread], nodes: StepNodes, above: NDArray[np.bool_], logits: Tensor
    ) -> Verdict:
        may_fork = [
            self._child_may_fork(scheduled[thread]) if forced else self._may_fork(scheduled[thread])
            for thread, forced in zip(nodes.thread, nodes.forced, strict=True)
        ]
        device = logits.device
        token_ids = torch.tensor(nodes.token_ids, device=device)
        chosen = self._choose(logits, token_ids, may_fork)
        accepted = accept(
            chosen,
            token_ids,
            torch.tensor(nodes.parent, device=device),
            torch.tensor(nodes.forced, device=device),
            torch.from_numpy(above).to(device),
        )
        both: list[list[int]] = torch.stack([chosen, accepted.to(chosen.dtype)]).tolist()
        return Verdict(both[0], [bool(flag) for flag in both[1]])

    def _commit(
        self, scheduled: list[LiveThread], nodes: StepNodes, slots: NDArray[np.int64], verdict: Verdict
    ) -> list[tuple[LiveThread, int]]:
        """Append what was accepted, open children, end threads.

        Returns:
            The threads that go on, each with the node behind which its pending token stands.
        """
        paths: list[list[int]] = [[] for _ in scheduled]
        eager: dict[int, int] = {}
        for node, accepted in enumerate(verdict.accepted):
            if accepted and nodes.forced[node]:
                eager[nodes.parent[node]] = node
            elif accepted:
                paths[nodes.thread[node]].append(node)

        leaves: list[tuple[LiveThread, int]] = []
        kept = np.zeros(len(nodes), dtype=np.bool_)
        for live, path in zip(scheduled, paths, strict=True):
            for node in path:
                self.pool.show(live.row, slots[node : node + 1])
                kept[node] = True
                if self.control is not None and nodes.token_ids[node] == self.control.fork_token_id:
                    child = self._open_child(live)
                    if (eager_node := eager.get(node)) is not None and child.thread.finish_reason is None:
                        self.pool.show(child.row, slots[eager_node : eager_node + 1])
                        kept[eager_node] = True
                        self._extend(child, verdict.chosen[eager_node])
                        leaves.append((child, eager_node))
                self._extend(live, verdict.chosen[node])
                if live.thread.finish_reason is not None:
                    break
                self.stats.accepted_guesses += node != path[-1]
            leaves.append((live, path[-1]))
        self.pool.give_back(slots[~kept])
        return [(live, node) for live, node in leaves if live.thread.finish_reason is None]

    def _open_child(self, parent: LiveThread) -> LiveThread:
        request = parent.request
        index = request.tree.open_child(parent.index, own_start=len(parent.thread.token_ids))
        child = LiveThread(request, index, (*parent.path, parent.forks), self.pool.fork_row(parent.row))
        parent.forks += 1
        insort(request.live, child, key=lambda live: live.path)
        if len(child.thread.token_ids) >= self.backbone.context_length:
            child.thread.finish_reason = "context"
        return child

    def _extend(self, live: LiveThread, token: int) -> None:
        """Append a chosen token; it is pending unless it ends the thread."""
        thread = live.thread
        thread.token_ids.append(token)
        if token in self.eos_token_ids:
            thread.finish_reason = "eos"
        elif len(thread.token_ids) >= self.backbone.context_length:
            thread.finish_reason = "context"

    def _settle(self, request: Request) -> None:
        """Let go of threads that have ended or stand behind the limit, and stream what is readable."""
        if request.live and request.tree.visible_tokens() >= request.max_new_tokens:
            for index in request.tree.threads_behind(request.max_new_tokens):
                thread = request.tree.threads[index]
                thread.finish_reason = thread.finish_reason or "length"
        for live in request.live:
            if live.thread.finish_reason is not None:
                self.pool.close_row(live.row)
        request.live = [live for live in request.live if live.thread.finish_reason is None]
        if request.stream is not None:
            request.stream.update(request.tree)

    def _draft_behind(self, leaves: list[tuple[LiveThread, int]], hidden: Tensor) -> None:
        if self.drafter is None or not leaves:
            return
        with self._timed("head_seconds"):
            guesses = self.drafter(hidden[[node for _, node in leaves]])
        for (live, _), guess in zip(leaves, guesses, strict=True):
            live.guesses = guess

    def _choose(self, logits: Tensor, token_ids: Tensor, may_fork: list[bool]) -> Tensor:
        """The backbone's token after each of the nodes `token_ids` `[nodes]`, under the control-token rules."""
        if self.control is not None:
            fork_allowed = torch.tensor(may_fork, device=logits.device)
            logits = ControlTokenRules(self.control, fork_allowed=fork_allowed)(token_ids[:, None], logits)
        return logits.argmax(dim=-1)

    def _may_fork(self, live: LiveThread) -> bool:
        return self.fork and live.thread.depth < self.max_depth

    def _child_may_fork(self, live: LiveThread) -> bool:
        return self.fork and live.thread.depth + 1 < self.max_depth

    def _count(self, nodes: StepNodes) -> None:
        held = self.pool.held
        stats = self.stats
        stats.steps += 1
        stats.forward_nodes += len(nodes)
        stats.attended_pairs += sum(nodes.position) + len(nodes)
        stats.peak_slots = max(stats.peak_slots, held)
        stats.mean_slots += (held - stats.mean_slots) / stats.steps

    @contextmanager
    def _timed(self, figure: str) -> Iterator[None]:
        start = perf_counter()
        yield
        setattr(self.stats, figure, getattr(self.stats, figure) + perf_counter() - start)


def _first_capacity(requests: Sequence[Request]) -> int:
    """Slots for the prompts and for answers of a common length; the pool grows where they are longer."""
    wanted = sum(len(request.prompt) + min(request.max_new_tokens, 512) for request in requests) + 64
    return -(-wanted // 64) * 64
