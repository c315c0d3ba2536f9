"""The causal LM as the decoder sees it: nodes and one mask in, logits and head inputs out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from .kv_pool import SlotPool

SUPPORTED_MODEL_TYPES = ("llama", "qwen2", "qwen3")
"""Backbones that the losslessness tests cover."""

SUPPORTED_ATTENTION = ("sdpa", "eager")
_POSITION_DEPENDENT_ROPE = ("dynamic", "longrope")


def check_supported(model: PreTrainedModel) -> None:
    """Raise a ValueError that names what about a model is not supported, and the remedy."""
    config = model.config
    if config.model_type not in SUPPORTED_MODEL_TYPES:
        raise ValueError(
            f"backbone of model_type={config.model_type!r} is not supported; "
            f"supported are {', '.join(SUPPORTED_MODEL_TYPES)}"
        )
    if config._attn_implementation not in SUPPORTED_ATTENTION:
        raise ValueError(
            f"attn_implementation={config._attn_implementation!r} takes no custom attention mask; "
            f"load the backbone with one of {', '.join(SUPPORTED_ATTENTION)}"
        )
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        raise ValueError("sliding-window attention layers are not supported; load with use_sliding_window=False")
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in _POSITION_DEPENDENT_ROPE:
        raise ValueError(
            f"rope_type={rope['rope_type']!r} makes one thread's positions change another's logits; "
            "use a backbone with another rope_type"
        )


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
        """Rows of the output projection."""
        weight: Tensor = self.lm_head.weight  # type: ignore[assignment]
        return weight.shape[0]

    @property
    def context_length(self) -> int:
        """Positions that the model knows."""
        length: int = self.model.config.max_position_embeddings
        return length

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
        token_ids: list[int],
        positions: list[int],
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
        device = self.model.device
        pool.cache.aim(slots, mask.shape[1])
        attention_mask = torch.from_numpy(mask).to(device)[None, None]
        if self.model.config._attn_implementation == "eager":
            lowest = torch.finfo(self.model.dtype).min
            attention_mask = torch.zeros_like(attention_mask, dtype=self.model.dtype).masked_fill(
                ~attention_mask, lowest
            )
        output = self.model(
            input_ids=torch.tensor([token_ids], device=device),
            position_ids=torch.tensor([positions], device=device),
            attention_mask=attention_mask,
            past_key_values=pool.cache,
            use_cache=True,
            logits_to_keep=1 if last_only else 0,
        )
        assert self._head_inputs is not None, "forward runs inside `watched`"
        return output.logits[0], self._head_inputs
