"""A KV pool that keeps the paths of its requests for prompts that begin like them.

Source: vLLM's automatic prefix caching, by tokens and not by blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .slot_pool import EXTENT_BUCKET, SlotPool

SPARE = 256
"""Slots that may always be kept."""


@dataclass(frozen=True, slots=True, eq=False)
class KeptPath:
    """A row that no thread runs.

    Attributes:
        row: sees the path's slots, one for each token.
        token_ids: `[tokens]`, from the first of the prompt.
    """

    row: int
    token_ids: NDArray[np.int64]


class PrefixCachingPool(SlotPool):
    """Keeps a path visible to a row that no thread runs, until its slots are needed.

    Slots that no thread's row sees count as `room`: the least recently used path is evicted when they are needed.
    Attention runs over kept slots too. So when a request begins, at most as many slots are kept as the running requests
    hold, or `SPARE`. What another pool keeps is copied; fewer than `EXTENT_BUCKET` tokens are computed.

    Args are those of `SlotPool`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._paths: list[KeptPath] = []  # least recently used first
        self._keepers: NDArray[np.int32] = np.zeros_like(self._watchers)

    @property
    def kept(self) -> int:
        return int(np.count_nonzero(self._only_kept))

    @property
    def room(self) -> int:
        return super().room + self.kept

    def acquire(self, slots: int) -> NDArray[np.int64]:
        while super().room < slots and self._paths:
            self._forget(self._paths[0])
        return super().acquire(slots)

    def shared_prefix(self, token_ids: Sequence[int]) -> int:
        return self._longest(token_ids)[1]

    def awaits(self, token_ids: Sequence[int], computing: Iterable[Sequence[int]]) -> bool:
        prompt = np.array(token_ids[:-1], dtype=np.int64)
        coming = max((_common(np.array(other, dtype=np.int64), prompt) for other in computing), default=0)
        return coming - self.shared_prefix(token_ids) >= EXTENT_BUCKET

    def begin_path(self, token_ids: Sequence[int], pools: Sequence[SlotPool] = ()) -> tuple[int, int]:
        path, shared = self._longest(token_ids)
        if path is None:
            row = self.open_row()
        else:
            row = self.fork_row(path.row, shared)
            self._touch(path)
        running = int(np.count_nonzero(self._watchers > self._keepers)) + len(token_ids) - shared
        while self.kept > max(running, SPARE):
            self._forget(self._paths[0])
        others = [pool for pool in pools if isinstance(pool, PrefixCachingPool)]
        giver = max(others, key=lambda pool: pool.shared_prefix(token_ids), default=self)
        path, longest = giver._longest(token_ids)
        if path is not None and EXTENT_BUCKET <= longest - shared <= self.room:
            giver._touch(path)
            self._copy(row, giver, giver._slots_of(path)[shared:longest])
            shared = longest
        return row, shared

    def keep_path(self, row: int, token_ids: Sequence[int]) -> None:
        if not token_ids:
            return
        tokens = np.array(token_ids, dtype=np.int64)
        shared = [_common(path.token_ids, tokens) for path in self._paths]
        if len(tokens) in shared:
            self._touch(self._paths[shared.index(len(tokens))])
            return
        path = KeptPath(self.fork_row(row, len(tokens)), tokens)
        self._keepers += self.visible[path.row]
        for other, length in list(zip(self._paths, shared, strict=True)):
            if length == len(other.token_ids):
                self._forget(other)
        self._paths.append(path)

    @property
    def _only_kept(self) -> NDArray[np.bool_]:
        flags: NDArray[np.bool_] = (self._keepers > 0) & (self._keepers == self._watchers)
        return flags

    @property
    def _attended(self) -> NDArray[np.bool_]:
        return self._held & ~self._only_kept

    def _longest(self, token_ids: Sequence[int]) -> tuple[KeptPath | None, int]:
        """The path that shares most tokens with a prompt, and how many; the prompt's last one has to be computed."""
        prompt = np.array(token_ids[:-1], dtype=np.int64)
        lengths = [_common(path.token_ids, prompt) for path in self._paths]
        longest = max(lengths, default=0)
        return (self._paths[lengths.index(longest)], longest) if longest else (None, 0)

    def _slots_of(self, path: KeptPath) -> NDArray[np.int64]:
        """`[tokens]`, in the order of the path."""
        slots = np.flatnonzero(self.visible[path.row])
        return slots[np.argsort(self.positions[slots])]

    def _copy(self, row: int, pool: SlotPool, slots: NDArray[np.int64]) -> None:
        """Let a row see copies of another pool's slots."""
        copies = self.acquire(len(slots))
        self.positions[copies] = pool.positions[slots]
        stride = self.cache.stride
        self.cache.copy(slots + pool.index * stride, copies + self.index * stride)
        self.show(row, copies)

    def _touch(self, path: KeptPath) -> None:
        self._paths.remove(path)
        self._paths.append(path)

    def _forget(self, path: KeptPath) -> None:
        self._paths.remove(path)
        self._keepers -= self.visible[path.row]
        self.close_row(path.row)

    def _grow(self, missing: int) -> None:
        super()._grow(missing)
        self._keepers = np.pad(self._keepers, (0, len(self._watchers) - len(self._keepers)))


def _common(some: NDArray[np.int64], others: NDArray[np.int64]) -> int:
    """How many leading tokens two paths share."""
    length = min(len(some), len(others))
    differing = np.flatnonzero(some[:length] != others[:length])
    return int(differing[0]) if len(differing) else length
