"""Draft trees of EAGLE-3 heads, which keep keys and values of their own over the slots of the backbone's."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medusa_apar.heads import Eagle3Heads
from medusa_apar.kv_cache.placement import Placement
from medusa_apar.kv_cache.slot_pool import SlotPool
from medusa_apar.linears.dtype import Weights
from medusa_apar.runner.attention import REPRODUCIBLE, implementation_for
from medusa_apar.runner.compilation import Compiler
from medusa_apar.runner.masks import additive
from medusa_apar.runner.model_runner import ModelRunner
from medusa_apar.runner.transfer import to_device

from .drafter import Beam, Drafter, DraftShape, Trees
from .eagle3_rows import Eagle3Rows
from .pending_tokens import ComputedNodes, PendingTokens


@dataclass(frozen=True, slots=True)
class Paths:
    """What is known of paths after pending tokens.

    Attributes:
        states: `[rows, paths, width]` of the last tokens but one.
        mask: additive, `[rows, paths, extent]`, of the tokens before the last.
        positions: `[rows]` int64 path depths of the tokens before the pending ones.
        levels: where the last tokens of every level lie.
    """

    states: Tensor
    mask: Tensor
    positions: Tensor
    levels: Sequence[Placement]


class Eagle3Drafter(Drafter):
    """Drafts with EAGLE-3 heads, each token given those before it.

    A row is the embedding of a token with the state of the token before it. The row of a node is stored in the node's
    slot. Rows of draft tokens take free slots while the trees are drafted.

    Args:
        heads: a twin of the heads.
        embeddings: the backbone's input embeddings.
        runner: of the backbone.
        compiler: of the layer; None runs it as it is.
    """

    WIDTH = 4
    """The layer runs over so many paths for each row, each at a cost."""

    heads: Eagle3Heads

    def __init__(
        self, heads: Eagle3Heads, embeddings: nn.Module, runner: ModelRunner, compiler: Compiler | None
    ) -> None:
        super().__init__(heads, self.WIDTH, None)
        self._rows = Eagle3Rows(heads, embeddings, compiler)
        self._dtype = runner.kv_dtype or heads.dtype
        attention: Any = heads.layer.self_attn
        attention.layer_idx = runner.kv_layers - 1
        attention.config = copy(attention.config)
        plain = implementation_for(attention.config, self._dtype, heads.device)
        attention.config._attn_implementation = REPRODUCIBLE if runner.weights is Weights.INT8 else plain
        self._placement: Placement
        self._mask: Tensor

    def read(self, nodes: ComputedNodes) -> None:
        placement, cache = nodes.placement, nodes.placement.cache
        device = self.heads.device
        cache.keep_states(to_device(placement.flat_slots, device), self.heads.fused(nodes.features))
        before = cache.states(to_device(placement.flat(placement.previous_slots()), device))
        positions = to_device(np.maximum(placement.positions - 1, 0), device)
        seen = placement.mask & (placement.slot_positions > 0)  # the first token of a path has no row
        self._placement, self._mask = placement, additive(seen, self._dtype, device)
        self._rows.store(before, to_device(nodes.token_ids, device), positions, placement)

    def propose(self, pending: PendingTokens, shape: DraftShape) -> Trees | None:
        placement, after = self._placement, pending.after
        assert after is not None
        widths = [1, *([shape.width] * shape.levels if isinstance(shape, Beam) else map(len, shape))][:-1]
        levels = levels_of(pending.pools, widths)
        if levels is None:
            return None
        try:
            device, further = self.heads.device, levels[0].extent - placement.extent
            hidden = torch.finfo(self._dtype).min
            paths = Paths(
                placement.cache.states(to_device(placement.flat_slots, device)[after])[:, None],
                nn.functional.pad(self._mask[0, 0, after], (0, further), value=hidden)[:, None],
                to_device(placement.positions, device)[after],
                levels,
            )
            return self._search(paths, pending.token_ids, shape)
        finally:
            for level in levels:
                level.give_back(np.ones(len(level), dtype=np.bool_))

    def _advance(self, level: int, state: Paths, token_ids: Tensor) -> tuple[Paths, Tensor]:
        placement = state.levels[level]
        rows, count = token_ids.shape
        own = to_device(placement.slots, token_ids.device).view(rows, count, 1)
        mask = state.mask.scatter(2, own, 0.0)
        after, logits = self._rows(
            state.states.flatten(0, 1),
            token_ids.flatten(),
            (state.positions + level).repeat_interleave(count),
            mask.flatten(0, 1),
            placement,
        )
        return replace(state, states=after.view(rows, count, -1), mask=mask), logits.view(rows, count, -1)

    def _follow(self, state: Paths, parent: Tensor) -> Paths:
        return replace(
            state,
            states=state.states.gather(1, parent[..., None].expand(-1, -1, state.states.shape[-1])),
            mask=state.mask.gather(1, parent[..., None].expand(-1, -1, state.mask.shape[-1])),
        )


def levels_of(pools: Sequence[SlotPool], widths: Sequence[int]) -> list[Placement] | None:
    """Slots for draft tokens: for every level so many after each row; None where a pool has no room for them.

    Args:
        pools: of each row.
        widths: draft tokens of a row, by level.
    """
    rows = {pool.index: pool for pool in pools}
    counts = np.bincount([pool.index for pool in pools], minlength=max(rows) + 1)
    if any(pool.room < counts[index] * sum(widths) for index, pool in rows.items()):
        return None
    pool_of = np.array([pool.index for pool in pools])
    slots = np.empty((len(pools), sum(widths)), dtype=np.int64)
    for index, pool in rows.items():
        slots[pool_of == index] = pool.acquire(int(counts[index]) * sum(widths)).reshape(-1, sum(widths))
    ends = np.cumsum(widths)
    return [
        Placement.at(list(rows.values()), np.repeat(pool_of, width), slots[:, end - width : end].reshape(-1))
        for width, end in zip(widths, ends, strict=True)
    ]
