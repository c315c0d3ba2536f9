"""Where a batch of tree-packed rows teaches heads to draft, and what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from medusa_apar.heads import DraftHeads
from medusa_apar.heads.draft_heads import PathRows

from ..rows.tree_data import IGNORE_INDEX


def head_inputs(backbone: PreTrainedModel, batch: dict[str, Any], layers: Sequence[int] = ()) -> Tensor:
    """Hidden states `[batch, length, size]` of a backbone that attends along paths (`attend_along_paths`).

    Args:
        backbone: the model.
        batch: of `TreeCollator`.
        layers: auxiliary layers of heads, by their numbers; the number of layers stands for the norm after them.

    Returns:
        What enters each of these layers, and after that what enters `lm_head`.
    """
    decoder: Any = backbone.get_decoder()
    every = [*decoder.layers, decoder.norm]
    kept: dict[int, Tensor] = {}
    handles = [
        every[layer].register_forward_pre_hook(lambda _, given, layer=layer: kept.update({layer: given[0]}))
        for layer in layers
    ]
    try:
        body = backbone.base_model(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            attention_mask=batch["attention_mask"],
            use_cache=False,
        )
    finally:
        for handle in handles:
            handle.remove()
    last: Tensor = body.last_hidden_state
    return torch.cat([*(kept[layer] for layer in layers), last], dim=-1) if layers else last


def backbone_logits(backbone: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits `[..., vocab_size]` of `head_inputs`, scaled (Granite) or capped (Gemma) as the model does itself."""
    logits: Tensor = backbone.get_output_embeddings()(hidden)
    config = backbone.config.get_text_config()
    scale: float = getattr(config, "logits_scaling", 1.0)
    cap: float | None = getattr(config, "final_logit_softcapping", None)
    if scale != 1.0:
        logits = logits / scale
    return logits if cap is None else (logits / cap).tanh() * cap


def draft_places(batch: dict[str, Any]) -> Tensor:
    """Where something is drafted in a batch, `[batch, length]`: after a chosen token, and before another one."""
    known: Tensor = (batch["labels"] != IGNORE_INDEX) & (batch["head_labels"][:, 0] != IGNORE_INDEX)
    return known


@dataclass(frozen=True, slots=True)
class Places:
    """Where a batch teaches heads to draft.

    Attributes:
        hidden: what the heads see: `[places, hidden_size]`, or for heads that attend `[batch, length, size]`.
        path: `[places, heads]` the tokens after each place.
        labels: `[heads, places]` what each head is to draft, or `IGNORE_INDEX`.
        rows: that the places lie in, for heads that attend; else None.
    """

    hidden: Tensor
    path: Tensor
    labels: Tensor
    rows: PathRows | None = None

    @staticmethod
    def of_batch(hidden: Tensor, batch: dict[str, Any], layers: Sequence[int] = ()) -> Places:
        """All places of a batch from which something is to be drafted.

        Args:
            hidden: `[batch, length, size]`, the `head_inputs`.
            batch: of `TreeCollator`.
            layers: auxiliary layers of the heads.
        """
        wanted = draft_places(batch)
        labels = torch.cat([batch["labels"][:, None], batch["head_labels"]], dim=1).transpose(0, 1)  # [1 + heads, ...]
        labels = labels[:, wanted]
        path = labels[:-1].clamp(min=0).T
        if not layers:
            return Places(hidden[wanted], path, labels[1:])
        rows = PathRows(
            batch["input_ids"], batch["position_ids"], batch["head_places"][:, 0], batch["attention_mask"], wanted
        )
        size = hidden.shape[-1] // (len(layers) + 1)
        return Places(hidden[..., :-size], path, labels[1:], rows)

    def logits(self, heads: nn.Module, backbone: PreTrainedModel) -> Tensor:
        """Of all heads, `[heads, places, logits]`."""
        lm_head, embeddings = backbone.get_output_embeddings(), backbone.get_input_embeddings()
        logits: Tensor = heads(self.hidden, lm_head, embeddings, self.path, self.rows)
        return logits


def label_sources(batch: dict[str, Any]) -> Tensor:
    """Where in a batch, its rows end to end, the backbone chooses the labels of its `Places`.

    Args:
        batch: of `TreeCollator`.

    Returns:
        `[heads, places]` int64; after the end of a path, where there is no label, anything.
    """
    wanted = draft_places(batch)
    rows, length = wanted.shape
    start = torch.arange(0, rows * length, length, device=wanted.device)[:, None].expand_as(wanted)[wanted]
    sources: Tensor = start + batch["head_places"].transpose(0, 1)[:, wanted].clamp(min=0)
    return sources


def labels_of(heads: DraftHeads, places: Places) -> Tensor:
    """Labels of all heads as places among their logits, `[heads, places]`, or `IGNORE_INDEX`.

    A token that no logit stands for has the place after the last.
    """
    known = places.labels != IGNORE_INDEX
    return heads.places_of(places.labels.clamp(min=0)).where(known, IGNORE_INDEX)
