"""A forward pass as tensors on the device, and the ways to run it: as it is, compiled, or from CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medusa_apar.kv_cache.placement import Placement
from medusa_apar.kv_cache.slot_cache import SlotCache


@dataclass(frozen=True, slots=True)
class PassInputs:
    """What a forward pass reads, on the device.

    Attributes:
        input_ids, position_ids: `[1, nodes]` int64.
        masks: additive, `[1, 1, nodes, extent]`; a mask per layer type where layers have different windows.
        slots: `[nodes]` int64, where keys and values go, counted through all pools.
        pool_nodes, node_places, attended_pools: as `slot_attention` takes them.
        kept: `[kept]` int64, the nodes whose logits are wanted; None: all.
    """

    input_ids: Tensor
    position_ids: Tensor
    masks: Tensor | dict[str, Tensor]
    slots: Tensor
    pool_nodes: Tensor | None = None
    node_places: Tensor | None = None
    attended_pools: Tensor | None = None
    kept: Tensor | None = None

    @property
    def extent(self) -> int:
        """Slots of each pool that attention runs over."""
        mask = self.masks if isinstance(self.masks, Tensor) else next(iter(self.masks.values()))
        return mask.shape[-1]

    def tensors(self) -> list[Tensor]:
        """All of them, in one order."""
        masks = [self.masks] if isinstance(self.masks, Tensor) else list(self.masks.values())
        optional = (self.pool_nodes, self.node_places, self.attended_pools, self.kept)
        return [self.input_ids, self.position_ids, *masks, self.slots, *(part for part in optional if part is not None)]

    def clone(self) -> PassInputs:
        """Copies of them."""
        return PassInputs(
            self.input_ids.clone(),
            self.position_ids.clone(),
            self.masks.clone() if isinstance(self.masks, Tensor) else {k: m.clone() for k, m in self.masks.items()},
            self.slots.clone(),
            None if self.pool_nodes is None else self.pool_nodes.clone(),
            None if self.node_places is None else self.node_places.clone(),
            None if self.attended_pools is None else self.attended_pools.clone(),
            None if self.kept is None else self.kept.clone(),
        )


Run = Callable[[PassInputs, SlotCache], tuple[Tensor, Tensor]]
"""Runs the model: logits `[kept, vocabulary]` and head inputs `[kept, hidden_size]`."""


class ForwardPass:
    """A way to run forward passes: the model as it is.

    Args:
        run: the model.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def new_cache(self, layers: int, pools: int, capacity: int, most: int) -> SlotCache:
        """A cache for a call of `generate`, of `capacity` slots for each pool, or of up to `most`."""
        return SlotCache(layers, pools, capacity)

    def fit(self, placement: Placement) -> Placement:
        """Nodes, extent and pools that this way can take: the given ones, and padding."""
        return placement

    def fit_prompts(self, placement: Placement) -> Placement:
        """`fit` for `prefill`."""
        return placement

    def __call__(self, inputs: PassInputs, cache: SlotCache) -> tuple[Tensor, Tensor]:
        """Run a step; what comes back may be overwritten by the next call."""
        return self._run(inputs, cache)

    def prefill(self, inputs: PassInputs, cache: SlotCache) -> tuple[Tensor, Tensor]:
        """Run stretches of prompts."""
        return self._run(inputs, cache)


class CompiledPass(ForwardPass):
    """Runs the model through `torch.compile`: one graph for prompts and steps of any size.

    Args:
        run: the compiled model.
        blank: a small cache of the model whose tensors are there already. A compiled graph makes none.
    """

    LEAST = 2
    """A single node would be a graph of its own, and so would a single place in a pool."""

    def __init__(self, run: Run, blank: Callable[[], SlotCache]) -> None:
        super().__init__(run)
        self._new_blank = blank
        self._blank: SlotCache | None = None

    def new_cache(self, layers: int, pools: int, capacity: int, most: int) -> SlotCache:
        if self._blank is None:
            self._blank = self._new_blank()
        return self._blank.resized(pools, capacity)

    def fit(self, placement: Placement) -> Placement:
        nodes, most = max(self.LEAST, len(placement)), max(self.LEAST, placement.most)
        return placement.padded(nodes, placement.extent, most)

    def fit_prompts(self, placement: Placement) -> Placement:
        return self.fit(placement)

    def __call__(self, inputs: PassInputs, cache: SlotCache) -> tuple[Tensor, Tensor]:
        every = torch.arange(len(inputs.slots), device=inputs.slots.device)
        return self._run(replace(inputs, kept=every), cache)

    def prefill(self, inputs: PassInputs, cache: SlotCache) -> tuple[Tensor, Tensor]:
        assert inputs.kept is not None
        kept = len(inputs.kept)
        if kept < self.LEAST:
            inputs = replace(inputs, kept=inputs.kept.expand(self.LEAST).contiguous())
        return self._run(inputs, cache)
