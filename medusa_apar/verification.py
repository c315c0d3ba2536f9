"""Which candidate nodes the backbone confirms.

`chosen[n]` is the token that the backbone picks after node n. A node is accepted iff its parent is and its
token is the parent's `chosen`; a forced node iff its parent is. What is accepted is, token for token, what
plain decoding would have written.
"""

from __future__ import annotations

import torch
from torch import Tensor


def accept(chosen: Tensor, token_ids: Tensor, parent: Tensor, forced: Tensor, ancestors: Tensor) -> Tensor:
    """Accepted nodes, `[nodes]` boolean.

    Args:
        chosen: `[nodes]` int64, the backbone's token after each node.
        token_ids: `[nodes]` int64, each node's own token.
        parent: `[nodes]` int64, -1 for pending tokens, which are always accepted.
        forced: `[nodes]` boolean, injected tokens.
        ancestors: `[nodes, nodes]` boolean; (i, j) is true where node j is i or stands above i.
    """
    confirmed = forced | (parent < 0) | (token_ids == chosen[parent.clamp(min=0)])
    return ~(ancestors & ~confirmed).any(dim=1)


def typical_threshold(probabilities: Tensor, posterior_threshold: float, posterior_alpha: float) -> Tensor:
    """The probability above which typical acceptance keeps a token.

    Source: Medusa (Cai et al. 2024, arXiv 2401.10774), section 2.3.1: min(epsilon, delta * exp(-entropy)).

    Args:
        probabilities: `[..., vocabulary]`.
        posterior_threshold: epsilon.
        posterior_alpha: delta.

    Returns:
        `[...]`.
    """
    entropy = -(probabilities * torch.log(probabilities + 1e-5)).sum(dim=-1)
    return torch.clamp(posterior_alpha * torch.exp(-entropy), max=posterior_threshold)
