"""Where the nodes of a forward pass lie in the KV pools, and what each of them may attend to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .slot_cache import SlotCache
from .slot_pool import SlotPool

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Placement:
    """Nodes with slots of their own.

    Attributes:
        members: the pools that the nodes lie in, each with the indices of its nodes.
        slots: `[nodes]`, in the node's own pool.
        positions: `[nodes]` path depths.
        mask: `[nodes, extent]`; true where a node may attend to a slot of its own pool.
        most: places for nodes of one pool, in `groups`.
        attended: `[attended]` the pools whose keys and values attention looks at; None: at those of all.
        rows: `[nodes]`, the row of each node's thread in its pool; None for nodes of none.
        ancestors: `[nodes, nodes]`; (i, j) is true where node j is i or above i; likewise.
    """

    members: Sequence[tuple[SlotPool, Ints]]
    slots: Ints
    positions: Ints
    mask: Flags
    most: int
    attended: Ints | None
    rows: Ints | None = None
    ancestors: Flags | None = None

    @staticmethod
    def acquire(pools: Sequence[SlotPool], pool_of: Ints, rows: Ints, positions: Ints, ancestors: Flags) -> Placement:
        """Take slots for nodes.

        Args:
            pools: all pools of the cache.
            pool_of: `[nodes]` the index of each node's pool, which has room for its nodes.
            rows: `[nodes]`, the row of each node's thread in its pool.
            positions: `[nodes]` path depths.
            ancestors: `[nodes, nodes]`; (i, j) is true where node j is i or above i.
        """
        members = [(pool, nodes) for pool in pools if len(nodes := np.flatnonzero(pool_of == pool.index))]
        slots = np.empty(len(rows), dtype=np.int64)
        for pool, nodes in members:
            slots[nodes] = pool.acquire(len(nodes))
            pool.positions[slots[nodes]] = positions[nodes]
        if len(members) == 1:
            mask = members[0][0].mask(rows, slots, ancestors)
        else:
            mask = np.zeros((len(rows), max(pool.extent for pool, _ in members)), dtype=np.bool_)
            for pool, nodes in members:
                own = pool.mask(rows[nodes], slots[nodes], ancestors[np.ix_(nodes, nodes)])
                mask[nodes, : own.shape[1]] = own
        most = max(len(nodes) for _, nodes in members)
        attended = _attended([pool for pool, _ in members])
        return Placement(members, slots, positions, mask, most, attended, rows, ancestors)

    @staticmethod
    def at(pools: Sequence[SlotPool], pool_of: Ints, slots: Ints) -> Placement:
        """Nodes at slots that were acquired; the caller has their mask.

        Args:
            pools: all pools of the nodes.
            pool_of: `[nodes]` the index of each node's pool.
            slots: `[nodes]`, in the node's own pool.
        """
        members = [(pool, np.flatnonzero(pool_of == pool.index)) for pool in pools]
        nothing = np.broadcast_to(np.False_, (len(slots), max(pool.extent for pool in pools)))
        most = max(len(nodes) for _, nodes in members)
        return Placement(members, slots, np.zeros_like(slots), nothing, most, _attended(pools))

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def cache(self) -> SlotCache:
        """The tensors of the pools."""
        return self.members[0][0].cache

    @property
    def extent(self) -> int:
        """Slots of each pool that attention runs over."""
        return int(self.mask.shape[1])

    @property
    def attended_count(self) -> int:
        """How many pools attention looks at."""
        return self.cache.pools if self.attended is None else len(self.attended)

    @property
    def slots_per_node(self) -> float:
        """Slots that attention runs over for each node, places of a pool that stay empty included."""
        return self.extent * (1 if self.cache.pools == 1 else self.attended_count * self.most / len(self))

    def padded(self, nodes: int, extent: int, most: int) -> Placement:
        """The same nodes, and padding up to a number of nodes, an extent and a number of places in a pool.

        A padding node lies in slot 0, which belongs to nobody, and sees nothing else.
        """
        if (nodes, extent, most) == (*self.mask.shape, self.most):
            return self
        more = nodes - len(self)
        mask = np.pad(self.mask, ((0, more), (0, extent - self.extent)))
        mask[len(self) :, 0] = True
        slots, positions = np.pad(self.slots, (0, more)), np.pad(self.positions, (0, more))
        return replace(self, slots=slots, positions=positions, mask=mask, most=most)

    def give_back(self, nodes: Flags) -> None:
        """Free the slots of the flagged nodes, which no row came to see."""
        for pool, own in self.members:
            pool.give_back(self.slots[own[nodes[own]]])

    @property
    def flat_slots(self) -> Ints:
        """`[nodes]`, counted through all pools, as the cache's tensors have them."""
        return self.flat(self.slots)

    def flat(self, slots: Ints) -> Ints:
        """Slots `[nodes]` of the nodes' own pools, counted through all pools."""
        flat = slots.copy()
        for pool, nodes in self.members:
            flat[nodes] += pool.index * pool.cache.stride
        return flat

    def previous_slots(self) -> Ints:
        """`[nodes]`, the slot of the token before each node, before the node's row sees its own; 0: none."""
        assert self.rows is not None
        assert self.ancestors is not None
        above = self.ancestors & ~np.eye(len(self), dtype=np.bool_)
        previous: Ints = self.slots[np.where(above, self.positions + 1, 0).argmax(axis=1)]
        for pool, nodes in self.members:
            for node in nodes[~above[nodes].any(axis=1)].tolist():
                previous[node] = pool.last_slot(self.rows[node])
        return previous

    @property
    def slot_positions(self) -> Ints:
        """`[nodes, extent]`; the path depth of what a slot of the node's pool holds."""
        depths = np.zeros(self.mask.shape, dtype=np.int64)
        for pool, nodes in self.members:
            extent = min(self.mask.shape[1], len(pool.positions))
            depths[nodes, :extent] = pool.positions[:extent]
        return depths

    def groups(self) -> tuple[Ints, Ints]:
        """The nodes by pool.

        Returns:
            `[attended, most]` the nodes of each pool that is looked at, node 0 in excess places; `[nodes]` where each
            node is in it, counted through; padding nodes at 0.
        """
        pools = np.arange(self.cache.pools) if self.attended is None else self.attended
        at = {index: place for place, index in enumerate(pools.tolist())}
        pool_nodes = np.zeros((len(pools), self.most), dtype=np.int64)
        places = np.zeros(len(self), dtype=np.int64)
        for pool, nodes in self.members:
            pool_nodes[at[pool.index], : len(nodes)] = nodes
            places[nodes] = at[pool.index] * self.most + np.arange(len(nodes))
        return pool_nodes, places


def _attended(pools: Sequence[SlotPool]) -> Ints | None:
    """The pools that have nodes, and no others, where they are at most half of all; else None.

    Their keys and values are copied; more of them would cost more than looking at idle pools does.
    """
    indices = [pool.index for pool in pools]
    if len(indices) == 1:  # compiled graphs would take a single pool for a case of its own
        indices.append(0 if indices[0] else 1)
    return np.array(indices) if 2 * len(indices) <= pools[0].cache.pools else None
