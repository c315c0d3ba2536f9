"""Precision and recall of the decisions to fork."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medusa_apar.train.evaluation.fork_decisions import ForkDecisions
from medusa_apar.train.rows.tree_data import IGNORE_INDEX

FORK, WORD = 9, 1


def batch(input_ids: list[int], labels: list[int]) -> dict[str, Tensor]:
    mask = torch.ones(len(labels), len(labels), dtype=torch.bool).tril()
    return {
        "input_ids": torch.tensor([input_ids]), "labels": torch.tensor([labels]), "attention_mask": mask[None, None],
    }  # fmt: skip


def test_first_and_later_forks_are_told_apart() -> None:
    decisions = ForkDecisions()
    inputs = batch([WORD, FORK, WORD, WORD, WORD], [FORK, WORD, FORK, FORK, WORD])
    decisions.note(inputs, torch.tensor([[FORK, WORD, FORK, WORD, FORK]]), FORK)
    assert decisions.counts.tolist() == [[1, 0, 0], [1, 1, 1]]
    assert decisions.metrics() == {
        "first_fork_precision": 1.0, "first_fork_recall": 1.0, "later_fork_precision": 0.5, "later_fork_recall": 0.5,
    }  # fmt: skip


def test_what_has_no_label_does_not_count() -> None:
    decisions = ForkDecisions()
    decisions.note(batch([WORD, WORD], [IGNORE_INDEX, WORD]), torch.tensor([[FORK, WORD]]), FORK)
    assert decisions.metrics() == {}


def test_batches_add_up() -> None:
    decisions = ForkDecisions()
    for chosen in (FORK, WORD, WORD):
        decisions.note(batch([WORD], [FORK]), torch.tensor([[chosen]]), FORK)
    assert decisions.metrics() == {"first_fork_precision": 1.0, "first_fork_recall": pytest.approx(1 / 3)}
