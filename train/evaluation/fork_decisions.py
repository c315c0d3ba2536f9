"""Whether a backbone forks where the responses do."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from medusa_apar.tree.control_tokens import ControlTokens

from ..rows.tree_data import IGNORE_INDEX

KINDS = ("first", "later")
"""A path's first fork can hardly be foreseen; later ones follow from it."""

BIASES = tuple(step / 4 for step in range(9))
"""Among which `fork_bias` chooses."""


@dataclass(slots=True)
class ForkDecisions:
    """Counts of decisions to fork, apart for those before and after the first fork of a path.

    Attributes:
        counts: `[2, 3]` int64: by kind the forks that were chosen rightly, those chosen wrongly, and those missed.
        found: `[biases]` int64: first forks that are chosen under each of `BIASES`.
    """

    counts: Tensor = field(default_factory=lambda: torch.zeros(2, 3, dtype=torch.int64))
    found: Tensor = field(default_factory=lambda: torch.zeros(len(BIASES), dtype=torch.int64))

    def note(self, inputs: dict[str, Tensor], logits: Tensor, control: ControlTokens) -> None:
        """Count the decisions of a batch.

        Args:
            inputs: a batch of `TreeCollator`, with `[batch, 1, length, length]` masks.
            logits: `[batch, length, vocabulary]` of the next tokens.
            control: the control tokens, with the bias under which is decided.
        """
        labels, fork = inputs["labels"], control.fork_token_id
        known = labels != IGNORE_INDEX
        is_fork = (inputs["input_ids"] == fork).float()
        later = (inputs["attention_mask"][:, 0].float() @ is_fork[..., None])[..., 0] > 0
        others = logits.index_fill(-1, torch.tensor(fork, device=logits.device), -torch.inf)
        needed = others.amax(dim=-1) - logits[..., fork]
        right, forked = labels == fork, needed < control.fork_bias
        for kind, where in enumerate((known & ~later, known & later)):
            outcomes = (forked & right, forked & ~right, ~forked & right)
            self.counts[kind] += torch.stack([(outcome & where).sum() for outcome in outcomes]).cpu()
        biases = torch.tensor(BIASES, device=logits.device)
        self.found += (needed[right & ~later, None] < biases).sum(dim=0).cpu()

    def __add__(self, other: ForkDecisions) -> ForkDecisions:
        return ForkDecisions(self.counts + other.counts, self.found + other.found)

    def metrics(self) -> dict[str, float]:
        """Precision and recall of first and of later forks; what was never asked is left out."""
        metrics = {}
        for kind, (hits, wrong, missed) in zip(KINDS, self.counts.tolist(), strict=True):
            if hits + wrong:
                metrics[f"{kind}_fork_precision"] = hits / (hits + wrong)
            if hits + missed:
                metrics[f"{kind}_fork_recall"] = hits / (hits + missed)
        return metrics

    def fork_bias(self, recall: float) -> float:
        """The least of `BIASES` under which this share of first forks is chosen; the last where none is enough."""
        hits, _, missed = self.counts[0].tolist()
        enough = (self.found >= recall * (hits + missed)).tolist()
        return BIASES[enough.index(True)] if any(enough) else BIASES[-1]
