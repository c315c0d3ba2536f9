"""The KV pool: slots, who may see which of them, and the transformers `Cache` over them.

Nothing in the pool ever moves. To fork, to accept and to finish change the boolean matrix `visible` alone;
where a slot lies does not matter to a mask, so there is no fragmentation either.
"""

from __future__ import annotations

from collections.abc import Sequence
from sys import maxsize
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

EXTENT_BUCKET = 64
"""Attention runs over the slots up to the highest held one, rounded up to this."""


class SlotPool:
    """Which slots are held, and which thread may attend to which of them.

    A thread has one row of `visible`. A slot is held from `acquire` until it is given back, or until no row
    sees it any more: `free + held == capacity` always.

    Args:
        layers: layers of the backbone.
        capacity: slots at the start; the pool doubles when they run out.
        max_slots: slots that it never grows beyond; None for no such limit.

    Attributes:
        visible: `[rows, capacity]`; true where a row may attend to a slot.
        positions: `[capacity]`; the path depth of what was last written to each slot.
    """

    def __init__(self, layers: int, capacity: int, max_slots: int | None = None) -> None:
        self.max_slots = maxsize if max_slots is None else max_slots
        capacity = min(capacity, self.max_slots)
        self.visible: NDArray[np.bool_] = np.zeros((8, capacity), dtype=np.bool_)
        self.positions: NDArray[np.int64] = np.zeros(capacity, dtype=np.int64)
        self._held: NDArray[np.bool_] = np.zeros(capacity, dtype=np.bool_)
        self._watchers: NDArray[np.int32] = np.zeros(capacity, dtype=np.int32)
        self._free_rows = list(range(len(self.visible)))[::-1]
        self.cache = SlotCache(layers, capacity)

    @property
    def capacity(self) -> int:
        """All slots."""
        return len(self._held)

    @property
    def held(self) -> int:
        """Slots in use."""
        return int(np.count_nonzero(self._held))

    @property
    def free(self) -> int:
        """Slots to be had without growing."""
        return self.capacity - self.held

    @property
    def room(self) -> int:
        """Slots to be had in all."""
        return self.max_slots - self.held

    @property
    def extent(self) -> int:
        """Length of the prefix of the pool that holds every held slot, rounded up to a bucket."""
        held = np.flatnonzero(self._held)
        high_water = int(held[-1]) + 1 if len(held) else 1
        return min(self.capacity, -(-high_water // EXTENT_BUCKET) * EXTENT_BUCKET)

    def acquire(self, slots: int) -> NDArray[np.int64]:
        """Hold the lowest free slots, not more than there is `room` for; no row sees them yet."""
        lowest = np.flatnonzero(~self._held)[:slots]
        if len(lowest) < slots:
            self._grow(slots - len(lowest))
            lowest = np.flatnonzero(~self._held)[:slots]
        self._held[lowest] = True
        return lowest

    def give_back(self, slots: Sequence[int] | NDArray[np.int64]) -> None:
        """Free acquired slots that no row came to see."""
        self._held[slots] = False

    def open_row(self) -> int:
        """A row that sees nothing yet."""
        if not self._free_rows:
            rows = len(self.visible)
            self.visible = np.concatenate([self.visible, np.zeros_like(self.visible)])
            self._free_rows = list(range(rows, 2 * rows))[::-1]
        return self._free_rows.pop()

    def fork_row(self, parent: int) -> int:
        """A row that sees what `parent` sees now."""
        child = self.open_row()
        self.visible[child] = self.visible[parent]
        self._watchers += self.visible[parent]
        return child

    def show(self, row: int, slots: Sequence[int] | NDArray[np.int64]) -> None:
        """Let a row see acquired slots that it did not see before."""
        self.visible[row, slots] = True
        self._watchers[slots] += 1

    def hide(self, row: int, slots: NDArray[np.bool_]) -> None:
        """Let a row no longer see the flagged slots `[capacity]`; those that nobody sees now are free at once."""
        unseen = self.visible[row] & slots
        self._watchers -= unseen
        self._held[unseen & (self._watchers == 0)] = False
        self.visible[row] &= ~unseen

    def close_row(self, row: int) -> None:
        """Drop a row; slots that no remaining row sees are free at once."""
        self.hide(row, self.visible[row].copy())
        self._free_rows.append(row)

    def mask(
        self, rows: Sequence[int] | NDArray[np.int64], slots: NDArray[np.int64], ancestors: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """The attention mask of a step.

        Args:
            rows: `[nodes]`, the row of each node's thread.
            slots: `[nodes]`, where each node's keys and values go.
            ancestors: `[nodes, nodes]`; (i, j) is true where node j is i or stands above i.

        Returns:
            `[nodes, extent]`; true where a node may attend to a slot.
        """
        mask = self.visible[:, : self.extent][rows]
        mask[:, slots] = ancestors
        return mask

    def _grow(self, missing: int) -> None:
        capacity = self.capacity
        while capacity < self.capacity + missing:
            capacity *= 2
        capacity = min(capacity, self.max_slots)
        more = capacity - self.capacity
        self.visible = np.pad(self.visible, ((0, 0), (0, more)))
        self.positions = np.pad(self.positions, (0, more))
        self._held = np.pad(self._held, (0, more))
        self._watchers = np.pad(self._watchers, (0, more))
        self.cache.grow(capacity)


class SlotLayer(CacheLayerMixin):
    """Keys and values of one backbone layer, `[1, kv_heads, capacity, head_dim]`, written by slot."""

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        # Zeros, not `empty`: a masked slot still takes part in the matrix product, and 0 * NaN is NaN.
        self.keys = key_states.new_zeros(*key_states.shape[:2], self._cache.capacity, key_states.shape[-1])
        self.values = value_states.new_zeros(*value_states.shape[:2], self._cache.capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        slots, extent = self._cache.slots.to(key_states.device), self._cache.extent
        self.keys.index_copy_(2, slots, key_states)
        self.values.index_copy_(2, slots, value_states)
        return self.keys[:, :, :extent], self.values[:, :, :extent]

    def grow(self, capacity: int) -> None:
        if self.is_initialized:
            assert self.keys is not None
            assert self.values is not None
            more = (0, 0, 0, capacity - self.keys.shape[2])
            self.keys = torch.nn.functional.pad(self.keys, more)
            self.values = torch.nn.functional.pad(self.values, more)

    def get_seq_length(self) -> int:
        return self._cache.extent if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.extent, 0

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """The pool's tensors, as `past_key_values` of an unmodified transformers model.

    Attributes:
        slots: `[nodes]` int64; where the next forward pass writes.
        extent: slots that the next forward pass attends over.
    """

    def __init__(self, layers: int, capacity: int) -> None:
        self.capacity = capacity
        self.slots = torch.empty(0, dtype=torch.int64)
        self.extent = 0
        super().__init__(layers=[SlotLayer(self) for _ in range(layers)])

    def aim(self, slots: NDArray[np.int64], extent: int) -> None:
        """Set where the next forward pass writes and how far it attends."""
        self.slots, self.extent = torch.from_numpy(slots), extent

    def grow(self, capacity: int) -> None:
        """Lengthen every layer to `capacity` slots."""
        self.capacity = capacity
        for layer in self.layers:
            assert isinstance(layer, SlotLayer)
            layer.grow(capacity)
