"""What drafters see: the nodes that a forward pass has computed, and the pending tokens after some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from medusa_apar.kv_cache.placement import Ints, Placement
from medusa_apar.kv_cache.slot_pool import SlotPool
from medusa_apar.runner.transfer import to_device


@dataclass(frozen=True, slots=True)
class ComputedNodes:
    """Nodes whose keys and values a forward pass has computed.

    Attributes:
        placement: where they lie.
        token_ids: `[nodes]` int64.
        previous: `[nodes]`, the slot of the token before each node, in the node's own pool; 0 where there is none.
        features: `[nodes, size]`, where the runner returns those of all nodes.
    """

    placement: Placement
    token_ids: Tensor
    previous: Ints
    features: Tensor

    @staticmethod
    def of(placement: Placement, parents: Ints, rows: Ints, token_ids: Ints, features: Tensor) -> ComputedNodes:
        """The nodes of a pass, before any row comes to see them.

        Args:
            placement: where they lie.
            parents: `[nodes]` the node before each, -1 where it was computed before.
            rows: `[nodes]` of their threads.
            token_ids: `[nodes]`.
            features: as the attribute.
        """
        previous = placement.slots[parents]
        for pool, own in placement.members:
            for node in own[parents[own] < 0].tolist():
                previous[node] = pool.last_slot(rows[node])
        return ComputedNodes(placement, to_device(token_ids, features.device), previous, features)


@dataclass(frozen=True, slots=True)
class PendingTokens:
    """Tokens that were sampled after some nodes, one of each row.

    Attributes:
        token_ids: `[rows]` int64.
        features: `[rows, size]` of the nodes that they were sampled after.
        nodes: of the last forward pass, for drafters that keep keys and values; else None.
        after: `[rows]` int64, which of the nodes each row's is; likewise.
        pools: the pool of each row.
    """

    token_ids: Tensor
    features: Tensor
    nodes: ComputedNodes | None = None
    after: Tensor | None = None
    pools: Sequence[SlotPool] = field(default=())

    def __len__(self) -> int:
        return len(self.token_ids)
