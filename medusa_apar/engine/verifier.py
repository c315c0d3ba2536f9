"""Verification: samples the backbone's tokens, accepts nodes, and drafts what comes after them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medusa_apar.drafters.drafter import DraftShape, Trees
from medusa_apar.drafters.pending_tokens import PendingTokens
from medusa_apar.drafting.budget import NodeBudget
from medusa_apar.drafting.draft_tree import DraftTree, Flags, StepNodes
from medusa_apar.runner.transfer import to_device, to_host
from medusa_apar.sampling.sampler import sample
from medusa_apar.sampling.verification import NodeTensors, verify
from medusa_apar.tree.control_tokens import ControlTokens

from . import sampling_inputs
from .outputs import PrefillOutput, StepOutput
from .state import LiveThread

Propose = Callable[[PendingTokens, DraftShape], Trees | None]
"""`Drafter.propose`."""


class Verifier:
    """Works on the device, with one transfer to the host at the end.

    Args:
        control: the control tokens; None where the backbone has none.
        propose: the drafter's; None decodes without.
        budget: says what is drafted.
    """

    def __init__(self, control: ControlTokens | None, propose: Propose | None, budget: NodeBudget) -> None:
        self._control = control
        self._propose = propose
        self._budget = budget

    def first_tokens(self, computed: PrefillOutput) -> tuple[list[int], list[DraftTree | None]]:
        """The first tokens of answers, and the draft trees after them."""
        roots, logits, features = computed.roots, computed.logits, computed.features
        inputs = sampling_inputs.of_prompts(roots, logits.device)
        tokens, _ = sample([root.request.sampler for root in roots], np.arange(len(roots)), logits, inputs)
        after, pools = to_device(computed.after, features.device), [root.pool for root in roots]
        pending = PendingTokens(tokens, features, after, pools)
        sampled, *arrays = to_host(tokens, *self._proposed(pending, roots))
        return sampled.tolist(), _draft_trees(arrays, len(roots))

    def __call__(
        self, threads: Sequence[LiveThread], nodes: StepNodes, ancestors: Flags, logits: Tensor, features: Tensor
    ) -> StepOutput:
        """Verify a step.

        Args:
            threads: the scheduled ones.
            nodes: of the step.
            ancestors: `[nodes, nodes]`; (i, j) is true where node j is i or above i.
            logits: `[nodes, vocabulary]`.
            features: `[nodes, size]`.
        """
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
        eager = np.flatnonzero(nodes.is_eager_child)
        last = torch.cat([leaves, to_device(eager, device)])
        pools = [thread.pool for thread in (*threads, *(threads[number] for number in nodes.thread[eager]))]
        after = last.to(features.device)
        proposed = self._proposed(PendingTokens(sampled[last], features[after], after, pools), threads)
        arrays = to_host(sampled, accepted, *proposed)
        return StepOutput(arrays[0], arrays[1], _draft_trees(arrays[2:], rows=len(last)))

    def _proposed(self, pending: PendingTokens, threads: Sequence[LiveThread]) -> tuple[Tensor, ...]:
        """Draft trees after pending tokens, where drafting pays in a step of these threads."""
        if self._propose is None:
            return ()
        requests = dict.fromkeys(thread.request for thread in threads)
        rates = [rate for request in requests if (rate := request.running_acceptance.expected) is not None]
        # A batch ends with its slowest request.
        shape = self._budget.shape(len(threads), min(rates, key=np.sum, default=None))
        return () if shape is None else self._propose(pending, shape) or ()


def _draft_trees(arrays: Sequence[NDArray[Any]], rows: int) -> list[DraftTree | None]:
    """Each row's draft tree, from the drafter's arrays; None where it proposed nothing."""
    if not arrays:
        return [None] * rows
    return [DraftTree(*tree) for tree in zip(*arrays, strict=True)]
