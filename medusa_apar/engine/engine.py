"""The engine: requests of any sampling and depth share steps, each one forward pass under one mask."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from medusa_apar.drafters.drafter import Drafter
from medusa_apar.drafters.pending_tokens import reading
from medusa_apar.drafting.budget import NodeBudget
from medusa_apar.drafting.draft_tree import choose_nodes
from medusa_apar.kv_cache.slot_pool import SlotPool
from medusa_apar.runner.model_runner import ModelRunner
from medusa_apar.tree.control_tokens import ControlTokens

from .commit import Commit
from .metrics import Metrics
from .pools import place
from .prefill import Prefill
from .proposals import draft_of
from .scheduler import Scheduler
from .state import LiveThread, Request
from .verifier import Verifier


class Engine:
    """Decodes requests together. The caller owns the loop: `add` requests, `step` while `busy`.

    Args:
        runner: of the backbone.
        drafter: proposes draft trees; None decodes without.
        control: the control tokens; None where the backbone has none.
        budget: how many nodes a step carries.
        pools: KV pools among which requests are dealt out; nodes attend to the slots of their own pool alone.
        context_length: tokens of the longest path.
    """

    def __init__(
        self,
        runner: ModelRunner,
        drafter: Drafter | None,
        control: ControlTokens | None,
        *,
        budget: NodeBudget,
        pools: Sequence[SlotPool],
        context_length: int,
    ) -> None:
        self.metrics = Metrics()
        self._budget = budget
        self.pools = pools
        self._scheduler = Scheduler(pools, self.metrics)
        self._choose = partial(choose_nodes, budget=budget, control=control, context_length=context_length)
        self._scored_slots = runner.scored_slots
        runs = (self.metrics.timed("backbone_seconds", run) for run in (runner.forward, runner.prefill))
        propose = None
        if drafter is not None:
            propose = self.metrics.timed("head_seconds", drafter.propose)
            runs = (reading(run, self.metrics.timed("head_seconds", drafter.read)) for run in runs)
        self._forward, prefill = runs
        self._prefill = Prefill(pools, prefill)
        self._verify = Verifier(control, propose, budget)
        self._commit = Commit(control, context_length, self.metrics)

    @property
    def busy(self) -> bool:
        """Whether a request has not ended."""
        return any(self._scheduler.requests)

    def add(self, request: Request) -> None:
        """Add a request of any sampling, depth and limits; it joins between two steps."""
        self._scheduler.add(request)

    def cancel(self, request: Request) -> None:
        """End a request; its slots are free at once."""
        self._scheduler.remove(request)

    def close(self) -> None:
        """Cancel all requests."""
        for request in list(self._scheduler.requests):
            self.cancel(request)

    def step(self) -> list[Request]:
        """Compute a chunk of prompts, or run one step of all scheduled threads.

        Returns:
            The requests that took part; one that has ended has no live thread.
        """
        threads = self._scheduler.schedule()
        if uncomputed := [thread for thread in threads if thread.uncomputed]:
            threads = uncomputed
            self._compute(threads)
        elif threads:
            self._decode(threads)
        for request in (requests := list(dict.fromkeys(thread.request for thread in threads))):
            self._commit.finish(request)
        self._scheduler.forget_ended()
        return requests

    def _compute(self, threads: Sequence[LiveThread]) -> None:
        """Prefill, and sample the first tokens of answers whose prompts are computed."""
        computed = self._prefill(threads)
        if computed.roots:
            for root, token, draft in zip(computed.roots, *self._verify.first_tokens(computed), strict=True):
                self._commit.first_token(root, token, draft)

    def _decode(self, threads: Sequence[LiveThread]) -> None:
        """One step: choose nodes, run them, sample, verify, commit, draft."""
        host_seconds = self.metrics.host_timer()
        nodes = self._choose([draft_of(thread) for thread in threads], room=self._scheduler.room(threads))
        ancestors = nodes.ancestors()
        placement = place(self.pools, threads, nodes.thread, nodes.position, ancestors)
        self.metrics.count_step(nodes, self.pools)
        logits, features = self._forward(placement, nodes.token_ids)
        output = self._verify(threads, nodes, ancestors, logits, features)
        self._commit(threads, nodes, placement, output)
        self._budget.record(self._scored_slots(placement), host_seconds())
