"""`[Fork]` may count more than other tokens while a backbone is trained, and counts once when it is judged."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

from medusa_apar.train.backbone.fork_weighted_loss import ForkWeightedLoss

FORK = 7
LABELS = torch.tensor([[3, FORK, -100], [FORK, 2, -100]])


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(0))


def loss(logits: torch.Tensor, weight: float, count: int | None = None) -> float:
    outputs = SimpleNamespace(logits=logits)
    return float(ForkWeightedLoss(FORK, weight)(outputs, LABELS, count))


def test_a_weight_of_one_is_the_cross_entropy(logits: torch.Tensor) -> None:
    assert loss(logits, 1.0) == pytest.approx(float(cross_entropy(logits.flatten(0, 1), LABELS.flatten())))


def test_forks_count_as_often_as_their_weight_says(logits: torch.Tensor) -> None:
    each = cross_entropy(logits.flatten(0, 1), LABELS.flatten(), reduction="none").tolist()
    assert loss(logits, 4.0) == pytest.approx((each[0] + 4 * each[1] + 4 * each[3] + each[4]) / 4)
    assert loss(logits, 4.0, count=8) == pytest.approx(loss(logits, 4.0) / 2)


def test_evaluations_count_every_token_once(logits: torch.Tensor) -> None:
    with torch.no_grad():
        judged = loss(logits, 4.0)
    assert judged == pytest.approx(loss(logits, 1.0))
