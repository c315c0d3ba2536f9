"""The ways to run a forward pass: as it is, compiled, or from CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from medusa_apar.kv_cache.placement import Placement
from medusa_apar.kv_cache.slot_cache import SlotCache

from .pass_inputs import PassInputs

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
