"""Keys and values by slot, as the `past_key_values` of an unmodified transformers model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin


class SlotCache(Cache):
    """The tensors of all pools of a call.

    Every pool has `capacity` slots, and before them slot 0, which belongs to nobody: padding nodes write there.

    Args:
        layers: layers of the backbone.
        pools: how many pools share the tensors.
        capacity: slots of each pool.

    Attributes:
        slots: `[nodes]` int64; where the next forward pass writes, counted through all pools.
        extent: slots of each pool that the next forward pass attends over.
        dtype: of keys and values; None for that in which the model computes them.
    """

    dtype: torch.dtype | None = None

    def __init__(self, layers: int, pools: int, capacity: int) -> None:
        self.pools = pools
        self.capacity = capacity
        self.slots = torch.empty(0, dtype=torch.int64)
        self.extent = 0
        self._slot_layers = [SlotLayer(self) for _ in range(layers)]
        self._states: Tensor | None = None
        super().__init__(layers=[*self._slot_layers])

    @property
    def stride(self) -> int:
        """Slots of a pool in the tensors: slot 0, its own, and one that is never used.

        What is attended over is never all of a tensor then, which compiled graphs would take for another case.
        """
        return self.capacity + 2

    def resized(self, pools: int, capacity: int) -> SlotCache:
        """An empty cache of another size for the same model."""
        other = SlotCache(len(self.layers), pools, capacity)
        for layer, own in zip(other._slot_layers, self._slot_layers, strict=True):
            if own.is_initialized:
                assert own.keys is not None
                assert own.values is not None
                layer.lazy_initialization(own.keys[None], own.values[None])
        return other

    def addresses(self) -> tuple[int, ...]:
        """Where the tensors lie; another place after the cache has grown."""
        return tuple(layer.keys.data_ptr() for layer in self._slot_layers if layer.keys is not None)

    def aim(self, slots: Tensor, extent: int) -> None:
        """Set where the next forward pass writes and how far it attends."""
        self.slots, self.extent = slots, extent

    def keep_states(self, slots: Tensor, states: Tensor) -> None:
        """Keep a state `[nodes, size]` in each of some slots, counted through all pools."""
        if self._states is None:
            self._states = states.new_zeros(self.pools * self.stride, states.shape[-1])
        self._states.index_copy_(0, slots, states)

    def states(self, slots: Tensor) -> Tensor:
        """What was kept last in some slots, `[nodes, size]`."""
        assert self._states is not None
        return self._states[slots]

    def copy(self, sources: NDArray[np.int64], targets: NDArray[np.int64]) -> None:
        """Copy what some slots `[tokens]` hold to others, both counted through all pools."""
        tensors = [tensor for layer in self._slot_layers for tensor in (layer.keys, layer.values) if tensor is not None]
        for tensor in tensors:
            device = tensor.device
            tensor.index_copy_(1, torch.tensor(targets, device=device), tensor[:, torch.tensor(sources, device=device)])
        if self._states is not None:
            device = self._states.device
            self.keep_states(torch.tensor(targets, device=device), self.states(torch.tensor(sources, device=device)))

    def grow(self, capacity: int) -> None:
        """Lengthen every pool to `capacity` slots."""
        more = capacity - self.capacity
        self.capacity = capacity
        for layer in self._slot_layers:
            layer.grow(more)
        if self._states is not None:
            by_pool = self._states.view(self.pools, -1, self._states.shape[-1])
            self._states = torch.nn.functional.pad(by_pool, (0, 0, 0, more)).flatten(0, 1)


class SlotLayer(CacheLayerMixin):
    """Keys and values of one backbone layer, `[kv_heads, pools * stride, head_dim]`, written by slot."""

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        # Zeros, not `empty`: a masked slot still takes part in the matrix product, and 0 * NaN is NaN.
        slots = self._cache.pools * self._cache.stride
        dtype = self._cache.dtype or key_states.dtype
        self.keys = key_states.new_zeros(key_states.shape[1], slots, key_states.shape[-1], dtype=dtype)
        self.values = value_states.new_zeros(value_states.shape[1], slots, value_states.shape[-1], dtype=dtype)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the nodes' keys and values `[1, kv_heads, nodes, head_dim]`.

        Returns:
            All pools' keys and values up to the extent, `[pools, kv_heads, extent, head_dim]`, without a copy.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        slots = self._cache.slots.to(key_states.device)
        self.keys.index_copy_(1, slots, key_states[0].to(self.keys.dtype))
        self.values.index_copy_(1, slots, value_states[0].to(self.values.dtype))
        return self._attended(self.keys), self._attended(self.values)

    def _attended(self, states: Tensor) -> Tensor:
        by_pool = self._by_pool(states)
        return by_pool[:, :, : self._cache.extent].transpose(0, 1)

    def _by_pool(self, states: Tensor) -> Tensor:
        return states.view(states.shape[0], self._cache.pools, -1, states.shape[-1])

    def grow(self, more: int) -> None:
        if self.is_initialized:
            assert self.keys is not None
            assert self.values is not None
            longer = (0, 0, 0, more)
            self.keys = torch.nn.functional.pad(self._by_pool(self.keys), longer).flatten(1, 2)
            self.values = torch.nn.functional.pad(self._by_pool(self.values), longer).flatten(1, 2)

    def get_seq_length(self) -> int:
        return self._cache.extent if self.is_initialized else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.extent, 0

    def get_max_length(self) -> int:
        return -1
