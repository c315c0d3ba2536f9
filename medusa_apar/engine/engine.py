"""The engine: requests of any sampling and depth share steps, each one forward pass under one mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medusa_apar.drafting.budget import NodeBudget
from medusa_apar.drafting.draft_tree import DraftTree, Flags, StepNodes, ThreadDraft, choose_nodes
from medusa_apar.drafting.drafter import Drafter
from medusa_apar.kv_cache.placement import Placement
from medusa_apar.kv_cache.slot_pool import SlotPool
from medusa_apar.runner.model_runner import ModelRunner
from medusa_apar.runner.transfer import to_device, to_host
from medusa_apar.sampling.sampler import sample
from medusa_apar.sampling.verification import NodeTensors, verify
from medusa_apar.tree.control_tokens import ControlTokens

from . import sampling_inputs
from .commit import Commit, StepOutput
from .metrics import Metrics
from .prefill import Prefill
from .scheduler import Scheduler
from .state import LiveThread, Request


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
        self._control = control
        self._context_length = context_length
        self._budget = budget
        self._scheduler = Scheduler(pools, self.metrics)
        self._prefill = Prefill(pools, self.metrics.timed("backbone_seconds", runner.prefill))
        self._forward = self.metrics.timed("backbone_seconds", runner.forward)
        self._propose = None if drafter is None else self.metrics.timed("head_seconds", drafter.propose)
        self._commit = Commit(control, context_length, self.metrics)

    @property
    def busy(self) -> bool:
        """Whether a request has not ended."""
        return any(self._scheduler.requests)

    @property
    def pools(self) -> Sequence[SlotPool]:
        """The KV pools."""
        return self._scheduler.pools

    def add(self, request: Request) -> None:
        """Add a request of any sampling, depth and limits; it joins at the next step."""
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
        requests = list(dict.fromkeys(thread.request for thread in threads))
        for request in requests:
            self._commit.finish(request)
        self._scheduler.forget_ended()
        return requests

    def _compute(self, threads: Sequence[LiveThread]) -> None:
        """Prefill, and sample the first tokens of answers whose prompts are computed."""
        computed, logits, hidden = self._prefill(threads)
        at = [number for number, thread in enumerate(computed) if thread.awaits_first_token]
        if not at:
            return
        roots = [computed[number] for number in at]
        inputs = sampling_inputs.of_prompts(roots, logits.device)
        tokens, _ = sample([root.request.sampler for root in roots], np.arange(len(roots)), logits[at], inputs)
        proposed = self._proposed(hidden[at], tokens, roots)
        sampled, *arrays = to_host(tokens, *proposed)
        for root, token, draft in zip(roots, sampled.tolist(), _draft_trees(arrays, len(roots)), strict=True):
            self._commit.first_token(root, token, draft)

    def _decode(self, threads: Sequence[LiveThread]) -> None:
        """One step: choose nodes, run them, sample, verify, commit, draft."""
        host_seconds = self.metrics.host_timer()
        nodes = self._nodes(threads)
        ancestors = nodes.ancestors()
        placement = Placement.acquire(
            self.pools,
            np.array([thread.pool.index for thread in threads])[nodes.thread],
            rows=np.array([thread.row for thread in threads])[nodes.thread],
            positions=nodes.position,
            ancestors=ancestors,
        )
        self.metrics.count_step(nodes, self.pools)
        logits, hidden = self._forward(placement, nodes.token_ids)
        output = self._verify(threads, nodes, ancestors, logits, hidden)
        self._commit(threads, nodes, placement, output)
        self._budget.record(placement.slots_per_node, host_seconds())

    def _nodes(self, threads: Sequence[LiveThread]) -> StepNodes:
        """The pending tokens, and the draft tokens that are worth a node."""
        drafts = [
            ThreadDraft(live.thread.token_ids[-1], len(live.thread.token_ids) - 1, live.may_fork, live.draft_tree)
            for live in threads
        ]
        return choose_nodes(drafts, self._budget, self._control, self._context_length, self._scheduler.room(threads))

    def _verify(
        self, threads: Sequence[LiveThread], nodes: StepNodes, ancestors: Flags, logits: Tensor, hidden: Tensor
    ) -> StepOutput:
        """Sample, accept and draft on the device; one transfer to the host at the end."""
        device = logits.device
        on_device = NodeTensors(
            token_ids=to_device(nodes.token_ids, device),
            parent=to_device(nodes.parent, device),
            is_eager_child=to_device(nodes.is_eager_child, device),
            ancestors=to_device(ancestors, device),
        )
        inputs = sampling_inputs.of_nodes(threads, nodes, ancestors, on_device.token_ids, self._control)
        requests = [thread.request for thread in threads]
        sampled, scores = sample([request.sampler for request in requests], nodes.thread, logits, inputs)
        accepted = verify([request.acceptance for request in requests], nodes.thread, on_device, sampled, scores)

        own = to_device(nodes.thread == np.arange(len(threads))[:, None], device) & ~on_device.is_eager_child
        depth = on_device.ancestors.sum(dim=1) * accepted
        leaves = (own * depth).argmax(dim=1)  # [threads]
        last = torch.cat([leaves, to_device(np.flatnonzero(nodes.is_eager_child), device)])
        proposed = self._proposed(hidden[last.to(hidden.device)], sampled[last], threads)
        arrays = to_host(sampled, accepted, *proposed)
        return StepOutput(arrays[0], arrays[1], _draft_trees(arrays[2:], rows=len(last)))

    def _proposed(self, hidden: Tensor, pending: Tensor, threads: Sequence[LiveThread]) -> tuple[Tensor, ...]:
        """Draft trees after pending tokens, where drafting pays in a step of these threads."""
        if self._propose is None:
            return ()
        requests = dict.fromkeys(thread.request for thread in threads)
        rates = [rate for request in requests if (rate := request.running_acceptance.expected) is not None]
        # A batch ends with its slowest request.
        shape = self._budget.shape(len(threads), min(rates, key=np.sum, default=None))
        return () if shape is None else self._propose(hidden, pending, shape)


def _draft_trees(arrays: Sequence[NDArray[Any]], rows: int) -> list[DraftTree | None]:
    """Each row's draft tree, from the drafter's arrays; None where it proposed nothing."""
    if not arrays:
        return [None] * rows
    return [DraftTree(*tree) for tree in zip(*arrays, strict=True)]
