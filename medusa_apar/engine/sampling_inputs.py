"""What samplers need to know of the nodes of a step, and of prompts' last tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medusa_apar.drafting.draft_tree import StepNodes
from medusa_apar.sampling.randomness import child_keys, uniform
from medusa_apar.sampling.sampler import SamplingInputs
from medusa_apar.tree.control_tokens import ControlTokens

from .state import LiveThread


def of_prompts(roots: Sequence[LiveThread], device: torch.device) -> SamplingInputs:
    """Of the last tokens of prompts."""
    lengths = np.array([len(root.thread.token_ids) for root in roots])
    return SamplingInputs(
        token_ids=torch.tensor([root.thread.token_ids[-1] for root in roots], device=device),
        fork_allowed=np.array([root.may_fork for root in roots]),
        uniforms=lambda: uniform(np.array([root.key for root in roots], dtype=np.uint64), lengths),
        contexts=lambda: [root.request.context for root in roots],
    )


def of_nodes(
    threads: Sequence[LiveThread],
    nodes: StepNodes,
    ancestors: NDArray[np.bool_],
    token_ids: Tensor,
    control: ControlTokens | None,
) -> SamplingInputs:
    """Of the nodes of a step.

    Args:
        threads: the scheduled ones.
        nodes: of the step.
        ancestors: `[nodes, nodes]`; (i, j) is true where node j is i or above i.
        token_ids: `[nodes]` on the device.
        control: the control tokens; None where the backbone has none.
    """
    depths = np.array([thread.thread.depth for thread in threads])[nodes.thread] + nodes.is_eager_child
    deepest = np.array([thread.request.max_depth for thread in threads])[nodes.thread]

    @cache
    def uniforms() -> NDArray[np.float64]:
        keys = np.array([thread.key for thread in threads], dtype=np.uint64)[nodes.thread]
        eager = nodes.is_eager_child
        if control is not None and eager.any():
            # An eager child's number among its siblings: the thread's forks so far, and those above it in the step.
            above = ancestors @ (nodes.token_ids == control.fork_token_id).astype(np.int64)
            opened = np.array([thread.forks for thread in threads])[nodes.thread]
            keys[eager] = child_keys(keys[eager], (opened + above - 1)[eager])
        return uniform(keys, nodes.position + 1)

    @cache
    def contexts() -> list[list[int]]:
        drafted = ancestors & (nodes.parent >= 0)
        return [
            threads[thread].request.context
            + threads[thread].thread.token_ids[threads[thread].thread.prompt_length :]
            + nodes.token_ids[above].tolist()
            for thread, above in zip(nodes.thread.tolist(), drafted, strict=True)
        ]

    return SamplingInputs(token_ids, depths < deepest, uniforms, contexts)
