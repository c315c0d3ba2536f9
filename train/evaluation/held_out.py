"""What trained heads draft on held-out text."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from medusa_apar.heads import DraftHeads
from medusa_apar.heads.config import HeadsConfig

from ..rows.tree_data import IGNORE_INDEX, NO_SUCCESSOR
from .places import Places, draft_places, head_inputs, labels_of

logger = logging.getLogger(__name__)

TOP = 5
"""Accuracies are reported for the best 1 to `TOP` draft tokens, or of as many as there are."""

CALIBRATED = 256
"""Tokens of each batch on which the temperatures are fitted."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out figures of heads.

    Attributes:
        accuracy: per head the top-1 to top-5 accuracy given the right tokens before its draft token.
        temperatures: per head what calibrates its probabilities.
        acceptance: of `HeadsConfig`.
    """

    accuracy: list[list[float]]
    temperatures: list[float]
    acceptance: list[float]

    @property
    def figures(self) -> dict[str, float]:
        """By name: the accuracies, and tokens per step with the best draft tokens alone."""
        shares = {
            f"head{k}_top{n}": share
            for k, row in enumerate(self.accuracy, start=1)
            for n, share in enumerate(row, start=1)
        }
        return {**shares, "tokens_per_step": 1 + sum(self.acceptance)}

    def record_in(self, config: HeadsConfig) -> None:
        """Write the figures where `from_pretrained` finds them."""
        config.accuracy = [[round(share, 4) for share in row] for row in self.accuracy]
        config.calibration_temperature = [round(temperature, 3) for temperature in self.temperatures]
        config.acceptance = [round(share, 4) for share in self.acceptance]
        for k, row in enumerate(config.accuracy, start=1):
            logger.info("head %d: top-1 to top-%d accuracy %s", k, len(row), row)
        logger.info("%.2f tokens per step with the best draft tokens alone", config.tokens_per_step)


@torch.inference_mode()
def measure(
    backbone: PreTrainedModel,
    heads: DraftHeads,
    batches: Iterable[dict[str, Any]],
    total: Callable[[Tensor], Tensor] = lambda figures: figures,
) -> HeldOut:
    """Measure trained heads on held-out batches of `TreeCollator`.

    Args:
        backbone: which attends along paths.
        heads: for it.
        batches: those of this process.
        total: sums what is counted over all processes.
    """
    shape = (heads.config.num_heads,)
    top = min(TOP, heads.draftable)
    hits, tokens = torch.zeros(*shape, top), torch.zeros(shape)
    temperatures = torch.linspace(0.5, 2.0, 61)
    losses = torch.zeros(*shape, len(temperatures))
    steps = torch.zeros(1 + heads.config.num_heads, dtype=torch.float64)  # by how many draft tokens are right in a row
    for batch in tqdm(batches, desc="held-out accuracy"):
        layers = heads.auxiliary_layers
        places = Places.of_batch(head_inputs(backbone, batch, layers), batch, layers)
        logits = places.logits(heads, backbone).float()
        best = logits[..., : heads.draftable].argmax(dim=-1) == labels_of(heads, places)
        right = torch.tensor([*_steps(batch, best.cumprod(dim=0).sum(dim=0))], dtype=torch.long)
        steps += torch.bincount(right, minlength=len(steps))
        for k, (head_logits, head_labels) in enumerate(zip(logits, labels_of(heads, places), strict=True)):
            known = head_labels != IGNORE_INDEX
            head_logits, head_labels = head_logits[known], head_labels[known]
            hit = head_logits[:, : heads.draftable].topk(top).indices == head_labels[:, None]
            hits[k] += hit.sum(dim=0).cumsum(dim=0).cpu()
            tokens[k] += len(head_labels)
            some = head_labels[:CALIBRATED] < head_logits.shape[-1]
            losses[k] += _losses(head_logits[:CALIBRATED][some], head_labels[:CALIBRATED][some], temperatures)
    hits, tokens, losses, steps = map(total, (hits, tokens, losses, steps))
    best_temperatures = temperatures[losses.argmin(dim=1)].where(tokens > 0, 1.0)  # 1 where nothing was there to fit it
    return HeldOut(
        accuracy=(hits / tokens.clamp(min=1)[:, None]).tolist(),
        temperatures=best_temperatures.tolist(),
        acceptance=(steps.flip(0).cumsum(0).flip(0)[1:] / steps.sum().clamp(min=1)).tolist(),
    )


def _steps(batch: dict[str, Any], right: Tensor) -> Iterator[int]:
    """How many draft tokens are right in each step of a decoder that goes along the paths of a batch.

    Args:
        batch: of `TreeCollator`.
        right: `[places]` how many draft tokens in a row are right at each of its `Places`.
    """
    wanted = draft_places(batch)
    at_place = torch.full(wanted.shape, -1)
    at_place[wanted.cpu()] = right.cpu()
    for row, successors in zip(at_place.tolist(), batch["head_places"][:, 0].tolist(), strict=True):
        followed = {successors[at] for at, count in enumerate(row) if count >= 0}
        for at in (start for start, count in enumerate(row) if count >= 0 and start not in followed):
            while at != NO_SUCCESSOR and row[at] >= 0:
                yield row[at]
                for _ in range(1 + row[at]):
                    at = successors[at]


def _losses(logits: Tensor, labels: Tensor, temperatures: Tensor) -> Tensor:
    """Cross-entropy at each temperature; the least calibrates (Guo et al. 2017, arXiv 1706.04599, section 4.2)."""
    losses = [nn.functional.cross_entropy(logits / t, labels, reduction="sum") for t in temperatures.tolist()]
    return torch.stack(losses).cpu()
