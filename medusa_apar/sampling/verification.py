"""Which nodes of a step are accepted.

Lossless: `sampled[n]` is the token that the backbone picks after node n. A node is accepted iff its parent is and its
token is the parent's `sampled`; an eager child iff its parent is. What is accepted is, token for token, what plain
decoding would have written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medusa_apar.runner.transfer import to_device


@dataclass(frozen=True, slots=True)
class NodeTensors:
    """The nodes of a step on the device.

    Attributes:
        token_ids: `[nodes]` int64.
        parent: `[nodes]` int64, -1 for pending tokens, which are always accepted.
        is_eager_child: `[nodes]` boolean, injected tokens.
        ancestors: `[nodes, nodes]` boolean; (i, j) is true where node j is i or above i.
    """

    token_ids: Tensor
    parent: Tensor
    is_eager_child: Tensor
    ancestors: Tensor

    def accepted(self, matches: Tensor) -> Tensor:
        """Nodes that match `[nodes]`, as do all above them; pending tokens and eager children always do."""
        return ~(self.ancestors & ~(matches | self.is_eager_child | (self.parent < 0))).any(dim=1)


class Acceptance(Protocol):
    """Says which nodes of a step are accepted."""

    def __call__(self, nodes: NodeTensors, sampled: Tensor, scores: Tensor) -> Tensor:
        """Accepted nodes, `[nodes]` boolean.

        Args:
            nodes: those of the step.
            sampled: `[nodes]` int64, the backbone's token after each node.
            scores: `[nodes, vocabulary]` processed scores.
        """
        ...


def accept_exactly(nodes: NodeTensors, sampled: Tensor, scores: Tensor) -> Tensor:
    """Lossless `Acceptance`: a draft token is accepted where it is what the backbone sampled."""
    return nodes.accepted(nodes.token_ids == sampled[nodes.parent.clamp(min=0)])


def verify(
    acceptances: Sequence[Acceptance],
    thread: NDArray[np.int64],
    nodes: NodeTensors,
    sampled: Tensor,
    scores: Tensor,
) -> Tensor:
    """Accepted nodes, `[nodes]` boolean, each by its request's `Acceptance`.

    Args:
        acceptances: of the threads.
        thread: `[nodes]` index of each node's thread.
        nodes: those of the step.
        sampled: `[nodes]` int64, the backbone's token after each node.
        scores: `[nodes, vocabulary]` processed scores.
    """
    first, *others = dict.fromkeys(acceptances)
    accepted = first(nodes, sampled, scores)
    for acceptance in others:
        own = to_device(np.array([each == acceptance for each in acceptances])[thread], accepted.device)
        accepted = torch.where(own, acceptance(nodes, sampled, scores), accepted)
    return accepted


@dataclass(frozen=True, slots=True)
class TypicalAcceptance:
    """Lossy `Acceptance`: a draft token is accepted where the backbone finds it likely enough.

    Source: Medusa (Cai et al. 2024, arXiv 2401.10774), section 2.3.1; names and defaults are medusa-llm's.

    Attributes:
        posterior_threshold: epsilon, the probability that is always enough.
        posterior_alpha: delta, the factor before exp(-entropy).
    """

    posterior_threshold: float = 0.09
    posterior_alpha: float = 0.3

    def __call__(self, nodes: NodeTensors, sampled: Tensor, scores: Tensor) -> Tensor:
        probabilities = scores.softmax(dim=-1)
        above = nodes.parent.clamp(min=0)
        drafted = probabilities[above, nodes.token_ids]
        likely = drafted > typical_threshold(probabilities, self.posterior_threshold, self.posterior_alpha)[above]
        return longest_path(nodes, nodes.accepted(likely))


def longest_path(nodes: NodeTensors, accepted: Tensor) -> Tensor:
    """Of accepted nodes `[nodes]`, those on the longest path of their tree; the earliest node decides a tie."""
    depth = nodes.ancestors.sum(dim=1) * (accepted & ~nodes.is_eager_child)
    roots = nodes.ancestors & (nodes.parent < 0)  # the one root above each node
    same_tree = roots.float() @ roots.float().T > 0
    # Nodes come likeliest first, and argmax takes the first of the best.
    leaf = torch.where(same_tree, depth, -1).argmax(dim=1)
    on_path = nodes.ancestors[leaf, torch.arange(len(leaf), device=leaf.device)]
    return accepted & torch.where(nodes.is_eager_child, on_path[nodes.parent.clamp(min=0)], on_path)


def typical_threshold(probabilities: Tensor, posterior_threshold: float, posterior_alpha: float) -> Tensor:
    """The probability above which typical acceptance keeps a token: min(epsilon, delta * exp(-entropy)).

    Args:
        probabilities: `[..., vocabulary]`.
        posterior_threshold: epsilon.
        posterior_alpha: delta.

    Returns:
        `[...]`.
    """
    entropy = -(probabilities * torch.log(probabilities + 1e-5)).sum(dim=-1)
    return torch.clamp(posterior_alpha * torch.exp(-entropy), max=posterior_threshold)
