"""The loss of a backbone that learns to fork, in which `[Fork]` may count more than other tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..rows.tree_data import IGNORE_INDEX


@dataclass(frozen=True, slots=True)
class ForkWeightedLoss:
    """Cross-entropy per token, in nats.

    A model that is tuned on its own answers has little to learn but where to fork, and few tokens tell it.

    Attributes:
        fork_token_id: of `[Fork]`.
        weight: of its loss while training; evaluations count every token once.
    """

    fork_token_id: int
    weight: float = 1.0

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """As `Trainer` calls its `compute_loss_func`.

        Args:
            outputs: of the model, with logits `[batch, length, vocabulary]`.
            labels: `[batch, length]`, each at the position whose logits predict it; `IGNORE_INDEX` where there is none.
            num_items_in_batch: tokens by which to divide; by default those that have a label.
        """
        labels = labels.flatten()
        losses = nn.functional.cross_entropy(
            outputs.logits.flatten(0, 1).float(), labels, ignore_index=IGNORE_INDEX, reduction="none"
        )
        if torch.is_grad_enabled():
            losses = losses * torch.where(labels == self.fork_token_id, self.weight, 1.0)
        count = (labels != IGNORE_INDEX).sum() if num_items_in_batch is None else num_items_in_batch
        loss: Tensor = losses.sum() / count
        return loss
