"""The causal LM as the decoder sees it: nodes and one mask in, logits and head inputs out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from .heads.backbone_weights import execution_device
from .kv_pool import SlotPool
from .masks import attention_masks
from .supported import check_supported


class Backbone:
    """A plain `PreTrainedModel`, called with flat nodes under one mask.

    Args:
        model: a supported causal LM.

    Raises:
        ValueError: if the model is not supported.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        check_supported(model)
        self.model = model
        self._head_inputs: Tensor | None = None

    @property
    def lm_head(self) -> nn.Module:
        """The output projection."""
        head: nn.Module = self.model.get_output_embeddings()
        return head

    @property
    def vocab_size(self) -> int:
        """Tokens that the model knows."""
        size: int = self.model.config.vocab_size
        return size

    @property
    def context_length(self) -> int:
        """Positions on which one thread's logits do not depend on another's."""
        return context_length(self.model.config)

    def new_pool(self, capacity: int, max_slots: int | None = None) -> SlotPool:
        """An empty KV pool for this model."""
        return SlotPool(self.model.config.num_hidden_layers, capacity, max_slots)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While open, `forward` also gives what enters `lm_head`, after the final norm."""

        def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._head_inputs = inputs[0][0]

        handle = self.lm_head.register_forward_pre_hook(keep)
        try:
            yield
        finally:
            handle.remove()
            self._head_inputs = None

    def forward(
        self,
        pool: SlotPool,
        slots: NDArray,  # type: ignore[type-arg]
        token_ids: Sequence[int] | NDArray[np.int64],
        positions: Sequence[int] | NDArray[np.int64],
        mask: NDArray,  # type: ignore[type-arg]
        *,
        last_only: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Run the model once over the nodes of a step, or over a stretch of a prompt.

        Args:
            pool: keys and values are written to and read from its cache.
            slots: `[nodes]`, where to write.
            token_ids: `[nodes]`.
            positions: `[nodes]` path depths.
            mask: `[nodes, extent]` boolean; true where a node may attend.
            last_only: give logits for the last node alone.

        Returns:
            Logits `[nodes or 1, vocabulary]` and head inputs `[nodes or 1, hidden_size]`.
        """
        device = execution_device(self.model)
        depths = np.asarray(positions, dtype=np.int64)
        pool.positions[slots] = depths
        pool.cache.aim(slots, mask.shape[1])
        output = self.model(
            input_ids=torch.from_numpy(np.asarray(token_ids, dtype=np.int64)).to(device)[None],
            position_ids=torch.from_numpy(depths).to(device)[None],
            attention_mask=attention_masks(
                self.model.config, mask, depths, pool.positions[: mask.shape[1]], self.model.dtype, device
            ),
            past_key_values=pool.cache,
            use_cache=True,
            logits_to_keep=1 if last_only else 0,
        )
        assert self._head_inputs is not None, "forward runs inside `watched`"
        return output.logits[0], self._head_inputs


def context_length(config: PretrainedConfig) -> int:
    """Positions that a model knows, up to where its rotary frequencies would change for all threads at once.

    rope_type `longrope` picks its frequencies by the largest position of a call and `dynamic` scales them by it, both
    beyond their original length alone; that of `dynamic` is `max_position_embeddings` itself.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [rope] if "rope_type" in rope else [value for value in rope.values() if isinstance(value, dict)]
    lengths: list[int] = [config.max_position_embeddings]
    for parameters in by_layer_type:
        if parameters.get("rope_type") == "longrope":
            lengths.append(parameters["original_max_position_embeddings"])
    return min(lengths)
