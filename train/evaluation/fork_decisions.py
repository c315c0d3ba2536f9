"""Whether a backbone forks where the responses do."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..rows.tree_data import IGNORE_INDEX

KINDS = ("first", "later")
"""A path's first fork can hardly be foreseen; later ones follow from it."""


@dataclass(slots=True)
class ForkDecisions:
    """Counts of decisions to fork, apart for those before and after the first fork of a path.

    Attributes:
        counts: `[2, 3]` int64: by kind the forks that were chosen rightly, those chosen wrongly, and those missed.
    """

    counts: Tensor = field(default_factory=lambda: torch.zeros(2, 3, dtype=torch.int64))

    def note(self, inputs: dict[str, Tensor], chosen: Tensor, fork_token_id: int) -> None:
        """Count the decisions of a batch.

        Args:
            inputs: a batch of `TreeCollator`, with `[batch, 1, length, length]` masks.
            chosen: `[batch, length]` the likeliest next tokens.
            fork_token_id: of `[Fork]`.
        """
        labels = inputs["labels"]
        known = labels != IGNORE_INDEX
        is_fork = (inputs["input_ids"] == fork_token_id).float()
        later = (inputs["attention_mask"][:, 0].float() @ is_fork[..., None])[..., 0] > 0
        right, forked = labels == fork_token_id, chosen == fork_token_id
        for kind, where in enumerate((known & ~later, known & later)):
            outcomes = (forked & right, forked & ~right, ~forked & right)
            self.counts[kind] += torch.stack([(outcome & where).sum() for outcome in outcomes]).cpu()

    def metrics(self) -> dict[str, float]:
        """Precision and recall of first and of later forks; what was never asked is left out."""
        found = {}
        for kind, (hits, wrong, missed) in zip(KINDS, self.counts.tolist(), strict=True):
            if hits + wrong:
                found[f"{kind}_fork_precision"] = hits / (hits + wrong)
            if hits + missed:
                found[f"{kind}_fork_recall"] = hits / (hits + missed)
        return found
