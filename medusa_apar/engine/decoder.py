"""The decoding loop: schedule, choose nodes, forward, verify, draft, commit.

All live threads of all requests share one forward pass, and one attention mask, per step.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medusa_apar.drafting.budget import NodeBudget
from medusa_apar.drafting.draft_tree import Draft, Guesses, StepNodes, choose_nodes
from medusa_apar.drafting.drafter import Drafter
from medusa_apar.kv_cache.placement import Placement
from medusa_apar.kv_cache.slot_pool import EXTENT_BUCKET, SlotPool
from medusa_apar.output import DecodingStats
from medusa_apar.runner.backbone import Backbone
from medusa_apar.runner.transfer import to_device, to_host
from medusa_apar.sampling.randomness import child_key, child_keys, uniform
from medusa_apar.sampling.sampler import Places, TokenChooser
from medusa_apar.sampling.verification import Acceptance, NodeTensors
from medusa_apar.tree.control_tokens import ControlTokens
from medusa_apar.tree.streaming import readable_token_ids

from .state import LiveThread, Request

PREFILL_CHUNK = 512
"""Tokens of prompts in one forward pass."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a forward pass decided, on the host.

    Attributes:
        chosen: `[nodes]` the backbone's token after each node.
        accepted: `[nodes]` whether the node stands.
        guesses: behind each scheduled thread's last accepted node, then behind each forced node.
    """

    chosen: NDArray[np.int64]
    accepted: NDArray[np.bool_]
    guesses: list[Guesses | None]


class Decoder:
    """Decodes requests together.

    Args:
        backbone: the model.
        drafter: guesses of the Medusa heads; None decodes without.
        control: the control tokens; None where the backbone has none.
        chooser: the backbone's token after every node.
        acceptance: which nodes stand.
        budget: how many nodes a step carries.
        fork: whether threads may fork.
        eos_token_ids: tokens that end a thread.
        max_threads: threads of one request in a step; the others wait.
        max_depth: threads of this depth do not fork.
        pools: KV pools among which requests are dealt out; nodes score the slots of their own pool alone.
        max_slots: slots of all pools; threads for which there is no room wait.
        context_length: tokens of the longest path; by default as many as the backbone knows positions.
    """

    def __init__(
        self,
        backbone: Backbone,
        drafter: Drafter | None,
        control: ControlTokens | None,
        *,
        chooser: TokenChooser,
        acceptance: Acceptance,
        budget: NodeBudget,
        fork: bool,
        eos_token_ids: Iterable[int],
        max_threads: int,
        max_depth: int,
        pools: int,
        max_slots: int,
        context_length: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.drafter = drafter
        self.control = control
        self.chooser = chooser
        self.acceptance = acceptance
        self.budget = budget
        self.fork = fork
        self.eos_token_ids = frozenset(eos_token_ids)
        self.max_threads = max_threads
        self.max_depth = max_depth
        self.max_slots = max_slots
        self.context_length = backbone.context_length if context_length is None else context_length
        self.stats = DecodingStats()
        self.pools: list[SlotPool] = []
        self._pool_count = pools

    def decode(self, requests: Sequence[Request], arrivals: Callable[[], Iterable[Request]] = tuple) -> None:
        """Decode requests to their ends. Afterwards, also after an interruption, no thread is live and no row open.

        Args:
            requests: to begin with.
            arrivals: called before every step; gives further requests, which are decoded beside the others.
        """
        sharing = [list(requests[first :: self._pool_count]) for first in range(self._pool_count)]
        capacity = max(map(_first_capacity, sharing))
        self.pools = self.backbone.new_pools(len(sharing), capacity, self.max_slots // len(sharing))
        for pool, sharers in zip(self.pools, sharing, strict=True):
            for request in sharers:
                _admit(request, pool)
        try:
            while True:
                for request in arrivals():
                    self._seat(request, sharing)
                scheduled = [live for sharers in sharing for live in self._schedule(sharers)]
                if not scheduled:
                    break
                if behind := [live for live in scheduled if live.missing]:
                    self._catch_up(behind)
                else:
                    self._step(scheduled)
                for request in chain(*sharing):
                    self._settle(request)
        finally:
            for request in chain(*sharing):
                for live in request.live:
                    live.pool.close_row(live.row)
                request.live.clear()

    def _seat(self, request: Request, sharing: list[list[Request]]) -> None:
        """Let a new request share the pool that the fewest others share, and forget those that have ended."""
        for sharers in sharing:
            sharers[:] = [other for other in sharers if other.live]
        pool, sharers = min(zip(self.pools, sharing, strict=True), key=lambda pair: len(pair[1]))
        sharers.append(request)
        _admit(request, pool)

    def _schedule(self, sharers: Sequence[Request]) -> list[LiveThread]:
        """The threads of the next step that share a pool: as many of the first ones as there is room for."""
        queue = [live for request in sharers for live in request.live[: self.max_threads]]
        if not queue:
            return []
        pool = queue[0].pool
        wanted = np.cumsum([live.missing + 1 for live in queue])
        fitting = int(np.searchsorted(wanted, pool.room, side="right"))
        if fitting == 0:
            self._preempt(pool, [live for request in sharers for live in request.live], int(wanted[0]))
            fitting = 1
        return queue[:fitting]

    def _preempt(self, pool: SlotPool, by_priority: list[LiveThread], slots: int) -> None:
        """Take slots from the last threads of a pool until there is room for `slots` more; never from the first thread.

        A thread loses the slots that no earlier thread sees. They hold the last tokens of its path, which are computed
        anew when it is its turn.
        """
        for kept in range(len(by_priority) - 1, 0, -1):
            earlier = [live.row for live in by_priority[:kept]]
            needed: NDArray[np.bool_] = np.logical_or.reduce(pool.visible[earlier])
            for live in by_priority[kept:]:
                pool.hide(live.row, ~needed)
                live.computed = int(np.count_nonzero(pool.visible[live.row]))
            self.stats.preemptions += 1
            if pool.room >= slots:
                return

    def _catch_up(self, behind: list[LiveThread]) -> None:
        """Compute missing keys and values: of prompts, and of threads that were preempted."""
        while behind:
            before = np.cumsum([0, *(live.missing for live in behind[:-1])])
            counts = [
                min(live.missing, PREFILL_CHUNK - first)
                for live, first in zip(behind, before.tolist(), strict=True)
                if first < PREFILL_CHUNK
            ]
            logits, hidden = self._prefill(behind, counts)
            whole = [at for at in range(len(counts)) if behind[at].awaits_answer]
            if whole:
                self._begin([behind[at] for at in whole], logits[whole], hidden[whole])
            behind = [live for live in behind if live.missing]

    def _prefill(self, behind: list[LiveThread], counts: list[int]) -> tuple[Tensor, Tensor]:
        """Compute keys and values of so many missing tokens of the first threads.

        Returns:
            Logits `[threads, vocabulary]` and head inputs `[threads, hidden_size]` at the last of each thread's tokens.
        """
        threads = behind[: len(counts)]
        stretches = [range(live.computed, live.computed + count) for live, count in zip(threads, counts, strict=True)]
        positions = np.array([*chain(*stretches)], dtype=np.int64)
        thread, ends = np.repeat(np.arange(len(counts)), counts), np.cumsum(counts)
        placement = Placement.acquire(
            self.pools,
            np.array([live.pool.index for live in threads])[thread],
            rows=np.array([live.row for live in threads])[thread],
            positions=positions,
            ancestors=(thread[:, None] == thread) & (positions[:, None] >= positions),
        )
        tokens = [
            live.thread.token_ids[stretch.start : stretch.stop]
            for live, stretch in zip(threads, stretches, strict=True)
        ]
        with self._timed("backbone_seconds"):
            found = self.backbone.prefill(placement, np.array([*chain(*tokens)], dtype=np.int64), ends - 1)
        for live, slots in zip(threads, np.split(placement.slots, ends[:-1]), strict=True):
            live.pool.show(live.row, slots)
            live.computed += len(slots)
        return found

    def _begin(self, roots: list[LiveThread], logits: Tensor, hidden: Tensor) -> None:
        """Choose the first tokens of answers behind their prompts."""
        lengths = np.array([len(root.thread.token_ids) for root in roots])
        places = Places(
            token_ids=torch.tensor([root.thread.token_ids[-1] for root in roots], device=logits.device),
            rows=np.array([root.request.row for root in roots]),
            fork_allowed=np.array([self._may_fork(root) for root in roots]),
            numbers=lambda: uniform(np.array([root.key for root in roots], dtype=np.uint64), lengths),
            contexts=lambda: [root.request.context for root in roots],
        )
        chosen = self.chooser.choose(self.chooser.scores(logits, places), places)
        guesses = self._guess(hidden, chosen, roots)
        chosen_tokens, *arrays = to_host(chosen, *guesses)
        for root, token, guess in zip(roots, chosen_tokens.tolist(), _guesses(arrays, len(roots)), strict=True):
            self._extend(root, [token])
            root.guesses = guess

    def _step(self, scheduled: list[LiveThread]) -> None:
        start, stats = perf_counter(), self.stats
        forward, heads = stats.backbone_seconds, stats.head_seconds
        drafts = [
            Draft(live.thread.token_ids[-1], len(live.thread.token_ids) - 1, self._may_fork(live), live.guesses)
            for live in scheduled
        ]
        control = self.control if self.fork else None
        pool_of = np.array([live.pool.index for live in scheduled])
        threads = np.bincount(pool_of, minlength=len(self.pools)).tolist()
        spare = min(pool.room - count for pool, count in zip(self.pools, threads, strict=True) if count)
        nodes = choose_nodes(drafts, self.budget, control, self.context_length, len(scheduled) + spare)
        ancestors = nodes.ancestors()
        placement = Placement.acquire(
            self.pools,
            pool_of[nodes.thread],
            rows=np.array([live.row for live in scheduled])[nodes.thread],
            positions=nodes.position,
            ancestors=ancestors,
        )
        self._count(nodes)
        with self._timed("backbone_seconds"):
            logits, hidden = self.backbone.forward(placement, nodes.token_ids)
        verdict = self._verify(scheduled, nodes, ancestors, logits, hidden)
        self._commit(scheduled, nodes, placement, verdict)
        forward, heads = stats.backbone_seconds - forward, stats.head_seconds - heads
        rest = perf_counter() - start - forward - heads
        self.budget.record(placement.slots_per_node, rest)

    def _verify(
        self,
        scheduled: list[LiveThread],
        nodes: StepNodes,
        ancestors: NDArray[np.bool_],
        logits: Tensor,
        hidden: Tensor,
    ) -> Verdict:
        """Choose, accept and draft on the device; one transfer to the host at the end."""
        device = logits.device
        on_device = NodeTensors(
            token_ids=to_device(nodes.token_ids, device),
            parent=to_device(nodes.parent, device),
            forced=to_device(nodes.forced, device),
            ancestors=to_device(ancestors, device),
        )
        places = self._places(scheduled, nodes, ancestors, on_device.token_ids)
        scores = self.chooser.scores(logits, places)
        chosen = self.chooser.choose(scores, places)
        accepted = self.acceptance(on_device, chosen, scores)

        own = to_device(nodes.thread == np.arange(len(scheduled))[:, None], device) & ~on_device.forced
        depth = on_device.ancestors.sum(dim=1) * accepted
        leaves = (own * depth).argmax(dim=1)  # [threads]
        behind = torch.cat([leaves, to_device(np.flatnonzero(nodes.forced), device)])
        guesses = self._guess(hidden[behind.to(hidden.device)], chosen[behind], scheduled)
        tensors = to_host(chosen, accepted, *guesses)
        return Verdict(tensors[0], tensors[1], _guesses(tensors[2:], rows=len(behind)))

    def _places(
        self, scheduled: list[LiveThread], nodes: StepNodes, ancestors: NDArray[np.bool_], token_ids: Tensor
    ) -> Places:
        rows = np.array([live.request.row for live in scheduled])
        depths = np.array([live.thread.depth for live in scheduled])

        def numbers() -> NDArray[np.float64]:
            keys = np.array([live.key for live in scheduled], dtype=np.uint64)[nodes.thread]
            if self.control is not None and nodes.forced.any():
                # An eager child is number so-and-so of the thread's children: count the forks above it.
                forks = ancestors @ (nodes.token_ids == self.control.fork_token_id).astype(np.int64)
                opened = np.array([live.forks for live in scheduled])[nodes.thread]
                keys[nodes.forced] = child_keys(keys[nodes.forced], (opened + forks - 1)[nodes.forced])
            return uniform(keys, nodes.position + 1)

        def contexts() -> list[list[int]]:
            guessed = ancestors & (nodes.parent >= 0)
            return [
                scheduled[thread].request.context
                + scheduled[thread].thread.token_ids[scheduled[thread].thread.prompt_length :]
                + nodes.token_ids[above].tolist()
                for thread, above in zip(nodes.thread.tolist(), guessed, strict=True)
            ]

        return Places(
            token_ids=token_ids,
            rows=rows[nodes.thread],
            fork_allowed=self.fork & (depths[nodes.thread] + nodes.forced < self.max_depth),
            numbers=numbers,
            contexts=contexts,
        )

    def _commit(self, scheduled: list[LiveThread], nodes: StepNodes, placement: Placement, verdict: Verdict) -> None:
        """Append what was accepted, open children, end threads."""
        slots = placement.slots
        token_ids, chosen = nodes.token_ids.tolist(), verdict.chosen.tolist()  # Python's own are faster one by one
        eager = np.flatnonzero(nodes.forced)
        kept = np.zeros(len(nodes), dtype=np.bool_)
        standing = np.flatnonzero(verdict.accepted & ~nodes.forced)
        carried = (np.bincount(nodes.thread[~nodes.forced], minlength=len(scheduled)) - 1).tolist()
        paths: list[list[int]] = [[] for _ in scheduled]
        for node, thread in zip(standing.tolist(), nodes.thread[standing].tolist(), strict=True):
            paths[thread].append(node)
        for number, (live, path) in enumerate(zip(scheduled, paths, strict=True)):
            tokens = [*(token_ids[node] for node in path[1:]), chosen[path[-1]]]
            tokens = tokens[: self._until_end(live, tokens)]
            path = path[: len(tokens)]
            if live.guesses is not None:
                live.request.note(live.guesses, carried[number], accepted=len(path) - 1)
            written = shown = 0
            for at in self._forks([token_ids[node] for node in path]):
                self._advance(live, slots[path[shown : at + 1]], tokens[written:at])
                written, shown = at, at + 1
                child = self._open_child(live)
                self.stats.forks_inside_steps += shown < len(path)
                for rank in np.flatnonzero(nodes.parent[eager] == path[at]).tolist():
                    if child.thread.finish_reason is None:
                        node = eager[rank]
                        self._advance(child, slots[node : node + 1], [chosen[node]])
                        child.guesses = verdict.guesses[len(scheduled) + rank]
                        kept[node] = True
                        self.stats.eager_children += 1
            self._advance(live, slots[path[shown:]], tokens[written:])
            live.guesses = verdict.guesses[number]
            kept[path] = True
        placement.give_back(~kept)
        self.stats.accepted_guesses += int(np.count_nonzero(kept & ~nodes.forced)) - len(scheduled)

    def _until_end(self, live: LiveThread, tokens: list[int]) -> int:
        """How many of `tokens` a thread takes until an EOS or the context window ends it."""
        tokens = tokens[: self.context_length - len(live.thread.token_ids)]
        for count, token in enumerate(tokens, start=1):
            if token in self.eos_token_ids:
                return count
        return len(tokens)

    def _forks(self, token_ids: list[int]) -> list[int]:
        """Where `[Fork]` stands among a path's tokens."""
        if self.control is None:
            return []
        return [at for at, token in enumerate(token_ids) if token == self.control.fork_token_id]

    def _open_child(self, parent: LiveThread) -> LiveThread:
        request = parent.request
        index = request.tree.open_child(parent.index, len(parent.thread.token_ids), self.stats.steps)
        child = LiveThread(
            request,
            index,
            path=(*parent.path, parent.forks),
            row=parent.pool.fork_row(parent.row),
            key=child_key(parent.key, parent.forks),
            computed=parent.computed,
        )
        parent.forks += 1
        insort(request.live, child, key=lambda live: live.path)
        if len(child.thread.token_ids) >= self.context_length:
            child.thread.finish_reason = "context"
        return child

    def _advance(self, live: LiveThread, slots: NDArray[np.int64], tokens: list[int]) -> None:
        """Let a thread see the slots of its newly computed tokens, and append newly chosen ones."""
        live.pool.show(live.row, slots)
        live.computed += len(slots)
        self._extend(live, tokens)

    def _extend(self, live: LiveThread, tokens: list[int]) -> None:
        """Append chosen tokens; the last is pending unless it ends the thread."""
        thread = live.thread
        thread.token_ids += tokens
        thread.steps += [self.stats.steps] * len(tokens)
        if tokens and tokens[-1] in self.eos_token_ids:
            thread.finish_reason = "eos"
        elif len(thread.token_ids) >= self.context_length:
            thread.finish_reason = "context"

    def _settle(self, request: Request) -> None:
        """Let go of threads that have ended or stand behind the limit, and hand out what is readable."""
        if not request.live:
            return
        tree = request.tree
        if request.stopping is not None or request.stream is not None:
            readable = readable_token_ids(tree)[: request.limit]
            cut = None if request.stopping is None else request.stopping.cut(readable)
            if cut is not None:
                request.limit, request.cut_reason = cut, "stop"
            if request.stream is not None:
                request.stream.update(readable[: request.limit])
        if tree.visible_tokens() >= request.limit:
            for index in tree.threads_behind(request.limit):
                thread = tree.threads[index]
                thread.finish_reason = thread.finish_reason or request.cut_reason
        for live in request.live:
            if live.thread.finish_reason is not None:
                live.pool.close_row(live.row)
        request.live = [live for live in request.live if live.thread.finish_reason is None]

    def _guess(self, hidden: Tensor, pending: Tensor, scheduled: list[LiveThread]) -> tuple[Tensor, ...]:
        """Guesses behind pending tokens, where guessing pays in a step of these threads."""
        if self.drafter is None:
            return ()
        requests = dict.fromkeys(live.request for live in scheduled)
        hopes = [hope for request in requests if (hope := request.hope) is not None]
        # A batch ends with its slowest row.
        shape = self.budget.shape(len(scheduled), min(hopes, key=np.sum, default=None))
        if shape is None:
            return ()
        with self._timed("head_seconds"):
            return self.drafter.guess(hidden, pending, shape)

    def _may_fork(self, live: LiveThread) -> bool:
        return self.fork and live.thread.depth < self.max_depth

    def _count(self, nodes: StepNodes) -> None:
        stats = self.stats
        stats.steps += 1
        stats.forward_nodes += len(nodes)
        stats.attended_pairs += int(nodes.position.sum()) + len(nodes)
        stats.slots_by_step.append(sum(pool.held for pool in self.pools))

    @contextmanager
    def _timed(self, figure: str) -> Iterator[None]:
        start = perf_counter()
        yield
        setattr(self.stats, figure, getattr(self.stats, figure) + perf_counter() - start)


def _admit(request: Request, pool: SlotPool) -> None:
    request.pool = pool
    request.live = [LiveThread(request, index=0, path=(), row=pool.open_row(), key=request.key)]


def _guesses(arrays: Sequence[NDArray], rows: int) -> list[Guesses | None]:  # type: ignore[type-arg]
    """Each row's guesses, from the drafter's arrays; None where none were made."""
    if not arrays:
        return [None] * rows
    return [Guesses(*tree) for tree in zip(*arrays, strict=True)]


def _first_capacity(requests: Sequence[Request]) -> int:
    """Slots for the prompts and for answers of a common length; the pool grows where they are longer."""
    wanted = sum(len(request.context) + min(request.limit, 512) for request in requests) + 64
    return -(-wanted // EXTENT_BUCKET) * EXTENT_BUCKET - 1  # with slot 0, whole buckets
