"""Where a batch of tree-packed rows teaches heads to draft, and what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from medusa_apar.heads import DraftHeads

from ..rows.tree_data import IGNORE_INDEX


def head_inputs(backbone: PreTrainedModel, batch: dict[str, Any]) -> Tensor:
    """Hidden states `[batch, length, hidden_size]` that enter the backbone's `lm_head`.

    The backbone attends along paths (`attend_along_paths`).
    """
    body = backbone.base_model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=batch["attention_mask"],
        use_cache=False,
    )
    hidden: Tensor = body.last_hidden_state
    return hidden


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
        hidden: `[places, hidden_size]` what enters the backbone's `lm_head`.
        path: `[places, heads]` the tokens after each place.
        labels: `[heads, places]` what each head is to draft, or `IGNORE_INDEX`.
    """

    hidden: Tensor
    path: Tensor
    labels: Tensor

    @staticmethod
    def of_batch(hidden: Tensor, batch: dict[str, Any]) -> Places:
        """All places of a batch from which something is to be drafted.

        Args:
            hidden: `[batch, length, hidden_size]`, the `head_inputs`.
            batch: of `TreeCollator`.
        """
        wanted = draft_places(batch)
        labels = torch.cat([batch["labels"][:, None], batch["head_labels"]], dim=1).transpose(0, 1)  # [1 + heads, ...]
        labels = labels[:, wanted]
        return Places(hidden[wanted], labels[:-1].clamp(min=0).T, labels[1:])

    def logits(self, heads: nn.Module, backbone: PreTrainedModel) -> Tensor:
        """Of all heads, `[heads, places, logits]`."""
        lm_head, embeddings = backbone.get_output_embeddings(), backbone.get_input_embeddings()
        logits: Tensor = heads(self.hidden, lm_head, embeddings, self.path)
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
    """Labels of all heads as places among their logits, `[heads, places]`, or `IGNORE_INDEX`."""
    known = places.labels != IGNORE_INDEX
    return heads.places_of(places.labels.clamp(min=0)).where(known, IGNORE_INDEX)
