"""Results of prefill and of steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medusa_apar.drafting.draft_tree import DraftTree, StepNodes
from medusa_apar.kv_cache.placement import Ints

from .state import LiveThread


@dataclass(frozen=True, slots=True)
class PrefillOutput:
    """Result of a pass over prompts.

    Attributes:
        roots: those whose whole prompt is computed now.
        logits: `[roots, vocabulary]` after each.
        features: `[roots, size]` there.
        after: `[roots]` which node of the pass is the last of each.
    """

    roots: list[LiveThread]
    logits: Tensor
    features: Tensor
    after: Ints


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Result of a step, on the host.

    Attributes:
        sampled: `[nodes]` the backbone's token after each node.
        accepted: `[nodes]` whether the node is accepted.
        drafts: after each thread's last accepted node, then after each eager child.
    """

    sampled: NDArray[np.int64]
    accepted: NDArray[np.bool_]
    drafts: list[DraftTree | None]

    def paths(self, nodes: StepNodes, threads: int) -> list[list[int]]:
        """The accepted nodes of every thread, from its pending token on."""
        accepted = np.flatnonzero(self.accepted & ~nodes.is_eager_child)
        paths: list[list[int]] = [[] for _ in range(threads)]
        for node, thread in zip(accepted.tolist(), nodes.thread[accepted].tolist(), strict=True):
            paths[thread].append(node)
        return paths
