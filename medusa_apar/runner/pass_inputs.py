"""A forward pass as tensors on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from medusa_apar.kv_cache.placement import Placement

from .transfer import to_device


@dataclass(frozen=True, slots=True)
class PassSizes:
    """Sizes of a forward pass.

    Attributes:
        nodes, extent: of the mask.
        attended: pools whose keys and values are looked at; None: all.
        pools, most: all pools, and places for nodes of one.
        kept: nodes whose logits are wanted.
    """

    nodes: int
    extent: int
    attended: int | None
    pools: int
    most: int
    kept: int


@dataclass(frozen=True, slots=True)
class PoolInputs:
    """Which nodes lie in which pool, as `slot_attention` takes it; all None where there is one pool.

    Attributes:
        pool_nodes: `[attended, most]` int64.
        node_places: `[nodes]` int64.
        attended_pools: `[attended]` int64; None: all.
    """

    pool_nodes: Tensor | None = None
    node_places: Tensor | None = None
    attended_pools: Tensor | None = None

    @staticmethod
    def of(placement: Placement, device: torch.device) -> PoolInputs:
        """Those of the nodes of a placement."""
        if placement.cache.pools == 1:
            return PoolInputs()
        arrays = (*placement.groups(), placement.attended)
        return PoolInputs(*(None if each is None else to_device(each, device) for each in arrays))

    def given(self) -> dict[str, Tensor]:
        """Those that are not None, by name."""
        every = {
            "pool_nodes": self.pool_nodes,
            "node_places": self.node_places,
            "attended_pools": self.attended_pools,
        }
        return {name: tensor for name, tensor in every.items() if tensor is not None}

    def map(self, change: Callable[[Tensor], Tensor]) -> PoolInputs:
        """Those that are not None, changed."""
        return PoolInputs(**{name: change(tensor) for name, tensor in self.given().items()})

    def zeros(self, sizes: PassSizes) -> PoolInputs:
        """Inputs of the same kind and of other sizes."""
        if self.pool_nodes is None:
            return self
        new = self.pool_nodes.new_zeros
        attended = None if sizes.attended is None else new(sizes.attended)
        return PoolInputs(new(sizes.attended or sizes.pools, sizes.most), new(sizes.nodes), attended)


@dataclass(frozen=True, slots=True)
class PassInputs:
    """What a forward pass reads, on the device.

    Attributes:
        input_ids, position_ids: `[1, nodes]` int64.
        masks: additive, `[1, 1, nodes, extent]`; a mask per layer type where layers have different windows.
        slots: `[nodes]` int64, where keys and values go, counted through all pools.
        pools: which nodes lie in which pool.
        kept: `[kept]` int64, the nodes whose logits are wanted; None: all.
    """

    input_ids: Tensor
    position_ids: Tensor
    masks: Tensor | dict[str, Tensor]
    slots: Tensor
    pools: PoolInputs
    kept: Tensor | None = None

    @property
    def extent(self) -> int:
        """Slots of each pool that attention runs over."""
        mask = self.masks if isinstance(self.masks, Tensor) else next(iter(self.masks.values()))
        return mask.shape[-1]

    def tensors(self) -> list[Tensor]:
        """All of them, in one order."""
        masks = [self.masks] if isinstance(self.masks, Tensor) else list(self.masks.values())
        kept = [] if self.kept is None else [self.kept]
        return [self.input_ids, self.position_ids, *masks, self.slots, *self.pools.given().values(), *kept]

    def clone(self) -> PassInputs:
        """Copies of them."""
        return PassInputs(
            self.input_ids.clone(),
            self.position_ids.clone(),
            self.masks.clone() if isinstance(self.masks, Tensor) else {k: m.clone() for k, m in self.masks.items()},
            self.slots.clone(),
            self.pools.map(Tensor.clone),
            None if self.kept is None else self.kept.clone(),
        )

    def zeros(self, sizes: PassSizes) -> PassInputs:
        """Inputs of the same kind and of other sizes."""

        def mask(like: Tensor) -> Tensor:
            return like.new_zeros(1, 1, sizes.nodes, sizes.extent)

        nodes = self.slots.new_zeros(sizes.nodes)
        return PassInputs(
            nodes[None],
            nodes[None],
            mask(self.masks) if isinstance(self.masks, Tensor) else {k: mask(one) for k, one in self.masks.items()},
            nodes,
            self.pools.zeros(sizes),
            None if self.kept is None else nodes.new_zeros(sizes.kept),
        )
