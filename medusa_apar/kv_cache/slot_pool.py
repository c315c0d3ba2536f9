"""The KV pool: slots, and who may see which of them.

Nothing in the pool ever moves. To fork, to accept and to finish change the boolean matrix `visible` alone;
where a slot lies does not matter to a mask, so there is no fragmentation either.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from sys import maxsize

import numpy as np
from numpy.typing import NDArray

from .slot_cache import SlotCache

EXTENT_BUCKET = 64
"""Attention runs over the slots up to the highest held one, rounded up to this."""


class SlotPool:
    """Which slots are held, and which thread may attend to which of them.

    A thread has one row of `visible`. A slot is held from `acquire` until it is given back, or until no row
    sees it any more: `free + held == capacity` always.

    Args:
        cache: the tensors; other pools may share them.
        index: which of the cache's pools this is.
        max_slots: slots that it never grows beyond; None for no such limit.

    Attributes:
        visible: `[rows, 1 + capacity]`; true where a row may attend to a slot. Slot 0 belongs to nobody.
        positions: `[1 + capacity]`; the path depth of what was last written to each slot.
    """

    def __init__(self, cache: SlotCache, index: int = 0, max_slots: int | None = None) -> None:
        self.cache = cache
        self.index = index
        self.max_slots = maxsize if max_slots is None else max_slots
        slots = 1 + min(cache.capacity, self.max_slots)
        self.visible: NDArray[np.bool_] = np.zeros((8, slots), dtype=np.bool_)
        self.positions: NDArray[np.int64] = np.zeros(slots, dtype=np.int64)
        self._held: NDArray[np.bool_] = np.zeros(slots, dtype=np.bool_)
        self._held[0] = True
        self._watchers: NDArray[np.int32] = np.zeros(slots, dtype=np.int32)
        self._free_rows = list(range(len(self.visible)))[::-1]

    @property
    def capacity(self) -> int:
        """All slots."""
        return len(self._held) - 1

    @property
    def held(self) -> int:
        """Slots in use."""
        return int(np.count_nonzero(self._held)) - 1

    @property
    def kept(self) -> int:
        """Slots in use for later prompts alone."""
        return 0

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
        """Length of the prefix of the pool that holds all slots of threads, rounded up to a bucket."""
        high_water = len(self._held) - int(self._attended[::-1].argmax())
        return min(len(self._held), -(-high_water // EXTENT_BUCKET) * EXTENT_BUCKET)

    @property
    def _attended(self) -> NDArray[np.bool_]:
        """`[1 + capacity]`; slots that a thread sees or that belong to a step, and slot 0."""
        return self._held

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

    def fork_row(self, parent: int, length: int | None = None) -> int:
        """A row that sees what `parent` sees now, or so many tokens from the beginning of its path."""
        child = self.open_row()
        seen = self.visible[parent]
        self.visible[child] = seen if length is None else seen & (self.positions < length)
        self._watchers += self.visible[child]
        return child

    def shared_prefix(self, token_ids: Sequence[int]) -> int:
        """How many leading tokens of a prompt are computed already."""
        return 0

    def awaits(self, token_ids: Sequence[int], computing: Iterable[Sequence[int]]) -> bool:
        """Whether a prompt should wait for one of those that are being computed, to share its beginning."""
        return False

    def begin_path(self, token_ids: Sequence[int], pools: Sequence[SlotPool] = ()) -> tuple[int, int]:
        """A row for a prompt, and how many of its leading tokens it sees already, from any of some pools."""
        return self.open_row(), 0

    def keep_path(self, row: int, token_ids: Sequence[int]) -> None:
        """Keep leading tokens of a row for prompts that begin like them, where the pool does that."""

    def show(self, row: int, slots: Sequence[int] | NDArray[np.int64]) -> None:
        """Let a row see acquired slots that it did not see before."""
        self.visible[row, slots] = True
        self._watchers[slots] += 1

    def last_slot(self, row: int) -> int:
        """The slot of the deepest token that a row sees; 0 if it sees none."""
        return int(np.where(self.visible[row], self.positions + 1, 0).argmax())

    def hide(self, row: int, slots: NDArray[np.bool_]) -> None:
        """Let a row no longer see the flagged slots `[1 + capacity]`; those that nobody sees now are free at once."""
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
            ancestors: `[nodes, nodes]`; (i, j) is true where node j is i or above i.

        Returns:
            `[nodes, extent]`; true where a node may attend to a slot.
        """
        mask = self.visible[:, : self.extent][rows]
        mask[:, slots] = ancestors
        return mask

    def _grow(self, missing: int) -> None:
        slots = len(self._held)
        while slots < len(self._held) + missing:
            slots *= 2
        more = min(slots, 1 + self.max_slots) - len(self._held)
        self.visible = np.pad(self.visible, ((0, 0), (0, more)))
        self.positions = np.pad(self.positions, (0, more))
        self._held = np.pad(self._held, (0, more))
        self._watchers = np.pad(self._watchers, (0, more))
        if self.capacity > self.cache.capacity:
            self.cache.grow(self.capacity)
