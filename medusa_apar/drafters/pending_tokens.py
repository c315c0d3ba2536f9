"""What drafters see: the nodes that a forward pass has computed, and the pending tokens after some of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from medusa_apar.kv_cache.placement import Ints, Placement
from medusa_apar.kv_cache.slot_pool import SlotPool

Run = Callable[..., tuple[Tensor, Tensor]]
"""Runs the backbone over a placement and its token ids: logits and features."""


@dataclass(frozen=True, slots=True)
class ComputedNodes:
    """Nodes whose keys and values a forward pass has computed, and that no row sees yet.

    Attributes:
        placement: where they lie.
        token_ids: `[nodes]`.
        features: of the nodes, as the runner returned them.
    """

    placement: Placement
    token_ids: Ints
    features: Tensor


@dataclass(frozen=True, slots=True)
class PendingTokens:
    """Tokens that were sampled after some nodes, one of each row.

    Attributes:
        token_ids: `[rows]` int64.
        features: `[rows, size]` of the nodes that they were sampled after.
        after: `[rows]` int64, which of the nodes of the last pass these are, for drafters that read them; else None.
        pools: the pool of each row; likewise.
    """

    token_ids: Tensor
    features: Tensor
    after: Tensor | None = None
    pools: Sequence[SlotPool] = ()


def reading(run: Run, read: Callable[[ComputedNodes], None]) -> Run:
    """A forward pass over a placement and its token ids, whose nodes a drafter then reads."""

    def run_and_read(placement: Placement, token_ids: Ints, *kept: Ints) -> tuple[Tensor, Tensor]:
        logits, features = run(placement, token_ids, *kept)
        read(ComputedNodes(placement, token_ids, features))
        return logits, features

    return run_and_read
