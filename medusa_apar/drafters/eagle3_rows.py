"""The layer of EAGLE-3 heads over rows of draft tokens, as it is or compiled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medusa_apar.heads import Eagle3Heads
from medusa_apar.kv_cache.placement import Placement
from medusa_apar.kv_cache.slot_cache import SlotCache
from medusa_apar.runner.compilation import Compiler, WarmedUpRun
from medusa_apar.runner.forward_pass import CompiledPass
from medusa_apar.runner.pass_inputs import PassSizes, PoolInputs
from medusa_apar.runner.transfer import to_device


@dataclass(frozen=True, slots=True)
class RowInputs:
    """What the layer reads, on the device.

    Attributes:
        states: `[rows, width]` of the tokens before.
        token_ids: `[rows]` int64.
        positions: `[rows]` int64 path depths of the tokens before.
        mask: additive, `[1, 1, rows, extent]`.
        slots: `[rows]` int64, where keys and values go, counted through all pools.
        pools: which rows lie in which pool.
    """

    states: Tensor
    token_ids: Tensor
    positions: Tensor
    mask: Tensor
    slots: Tensor
    pools: PoolInputs

    def zeros(self, sizes: PassSizes) -> RowInputs:
        """Inputs of the same kind and of other sizes."""
        rows = self.slots.new_zeros(sizes.nodes)
        return RowInputs(
            self.states.new_zeros(sizes.nodes, self.states.shape[1]),
            rows,
            rows.clone(),
            self.mask.new_zeros(1, 1, sizes.nodes, sizes.extent),
            rows.clone(),
            self.pools.zeros(sizes),
        )


class Eagle3Rows:
    """Runs the layer.

    Args:
        heads: a twin of the heads.
        embeddings: the backbone's input embeddings.
        compiler: of the layer; None runs it as it is.
    """

    def __init__(self, heads: Eagle3Heads, embeddings: nn.Module, compiler: Compiler | None) -> None:
        self._heads = heads
        self._embeddings = embeddings
        self._run = self.run if compiler is None else WarmedUpRun(compiler.compiled(self.run))
        self._least = 1 if compiler is None else CompiledPass.LEAST

    def store(self, states: Tensor, token_ids: Tensor, positions: Tensor, placement: Placement) -> None:
        """Keep the keys and values of tokens after which nothing is drafted. Arguments are those of `__call__`."""
        placement.cache.aim(to_device(placement.flat_slots, states.device), placement.extent)
        self._heads.store(states, token_ids, positions, self._embeddings, placement.cache)

    def __call__(
        self, states: Tensor, token_ids: Tensor, positions: Tensor, mask: Tensor, placement: Placement
    ) -> tuple[Tensor, Tensor]:
        """Move states on by a token.

        Args:
            states: `[rows, width]` of the tokens before.
            token_ids: `[rows]` int64.
            positions: `[rows]` int64 path depths of the tokens before.
            mask: additive, `[rows, extent]`.
            placement: of the rows.

        Returns:
            States of the tokens `[rows, width]`, and logits `[rows, draft_vocab_size]`.
        """
        rows, device = len(placement), states.device
        placement = placement.padded(max(self._least, rows), mask.shape[-1], max(self._least, placement.most))
        if len(placement) > rows:
            padded = torch.arange(len(placement), device=device).clamp(max=rows - 1)
            states, token_ids, positions, mask = states[padded], token_ids[padded], positions[padded], mask[padded]
        inputs = RowInputs(
            states,
            token_ids,
            positions,
            mask[None, None],
            to_device(placement.flat_slots, device),
            PoolInputs.of(placement, device),
        )
        after, logits = self._run(inputs, placement.cache)
        return after[:rows], logits[:rows]

    def run(self, inputs: RowInputs, cache: SlotCache) -> tuple[Tensor, Tensor]:
        """Call the layer, as it is compiled."""
        cache.aim(inputs.slots, inputs.mask.shape[-1])
        return self._heads.advance(
            inputs.states, inputs.token_ids, inputs.positions, self._embeddings, inputs.mask, cache,
            **inputs.pools.given(),
        )  # fmt: skip
