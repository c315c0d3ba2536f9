"""Precision and recall of the decisions to fork."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medusa_apar.train.evaluation.fork_decisions import ForkDecisions
from medusa_apar.train.rows.tree_data import IGNORE_INDEX
from medusa_apar.tree.control_tokens import ControlTokens

FORK, WORD = 9, 1
CONTROL = ControlTokens(FORK, 8)


def batch(input_ids: list[int], labels: list[int]) -> dict[str, Tensor]:
    mask = torch.ones(len(labels), len(labels), dtype=torch.bool).tril()
    return {
        "input_ids": torch.tensor([input_ids]), "labels": torch.tensor([labels]), "attention_mask": mask[None, None],
    }  # fmt: skip


def logits_of(chosen: list[int], lead: float = 1.0) -> Tensor:
    """Logits of which those of the chosen tokens lead by so much."""
    return lead * torch.nn.functional.one_hot(torch.tensor([chosen]), 10).float()


def test_first_and_later_forks_are_told_apart() -> None:
    decisions = ForkDecisions()
    inputs = batch([WORD, FORK, WORD, WORD, WORD], [FORK, WORD, FORK, FORK, WORD])
    decisions.note(inputs, logits_of([FORK, WORD, FORK, WORD, FORK]), CONTROL)
    assert decisions.counts.tolist() == [[1, 0, 0], [1, 1, 1]]
    assert decisions.metrics() == {
        "first_fork_precision": 1.0, "first_fork_recall": 1.0, "later_fork_precision": 0.5, "later_fork_recall": 0.5,
    }  # fmt: skip


def test_what_has_no_label_does_not_count() -> None:
    decisions = ForkDecisions()
    decisions.note(batch([WORD, WORD], [IGNORE_INDEX, WORD]), logits_of([FORK, WORD]), CONTROL)
    assert decisions.metrics() == {}


def test_batches_add_up() -> None:
    decisions = ForkDecisions()
    for chosen in (FORK, WORD, WORD):
        decisions.note(batch([WORD], [FORK]), logits_of([chosen]), CONTROL)
    assert decisions.metrics() == {"first_fork_precision": 1.0, "first_fork_recall": pytest.approx(1 / 3)}


def test_a_bias_decides_as_decoding_does() -> None:
    decisions = ForkDecisions()
    decisions.note(batch([WORD], [FORK]), logits_of([WORD]), ControlTokens(FORK, 8, fork_bias=1.25))
    assert decisions.metrics() == {"first_fork_precision": 1.0, "first_fork_recall": 1.0}


@pytest.mark.parametrize(("recall", "bias"), [(0.0, 0.0), (0.25, 0.0), (0.5, 0.75), (0.75, 1.75), (0.9, 2.0)])
def test_the_least_bias_is_found_under_which_enough_first_forks_are_chosen(recall: float, bias: float) -> None:
    decisions = ForkDecisions()
    for chosen, lead in ((FORK, 1.0), (WORD, 0.6), (WORD, 1.5), (WORD, 5.0)):
        decisions += _of(batch([WORD], [FORK]), logits_of([chosen], lead))
    decisions += _of(batch([FORK], [FORK]), logits_of([WORD], 9.0))  # a later fork has no say
    assert decisions.fork_bias(recall) == bias


def _of(inputs: dict[str, Tensor], logits: Tensor) -> ForkDecisions:
    decisions = ForkDecisions()
    decisions.note(inputs, logits, CONTROL)
    return decisions


def test_without_first_forks_there_is_no_bias() -> None:
    assert ForkDecisions().fork_bias(0.9) == 0.0
