"""Stopping criteria and stop strings: a cut of the answer in reading order, whatever the schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import MaxLengthCriteria, StoppingCriteria, StoppingCriteriaList

from medusa_apar import MedusaAparModel
from medusa_apar.tree.stopping import Stopping, asked_criteria, eos_token_ids

from ..conftest import EOS, forking_backbone, random_heads
from ..engine.test_lossless import SCHEDULES, batch, decode
from ..test_drop_in import EndsOn, letters


class Records(StoppingCriteria):
    """Remembers what it was asked about, and says no."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.asked += input_ids.tolist()
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize("seed", range(3))
def test_the_answer_is_cut_behind_the_first_token_at_which_a_criterion_is_met(seed: int) -> None:
    backbone = forking_backbone(seed=seed)
    model = MedusaAparModel(backbone, random_heads(backbone))
    _, ids, mask = batch(seed)
    whole = decode(model, ids, mask, max_new_tokens=60).trees
    assert whole is not None
    ends = {*range(5, 60, 7)}
    for schedule in SCHEDULES.values():
        cut = decode(
            model, ids, mask, max_new_tokens=60, stopping_criteria=StoppingCriteriaList([EndsOn(ends)]), **schedule
        )
        for ours, uncut in zip(cut.trees or (), whole, strict=True):
            answer = uncut.answer_token_ids()
            first = next((at for at, token in enumerate(answer) if token in ends), len(answer))
            assert ours.answer_token_ids() == answer[: first + 1]
            if first + 1 < len(answer):
                assert ours.threads[0].finish_reason == "stop"


def test_a_stop_string_is_found_across_a_join_of_threads() -> None:
    """The string's first letter ends a child's text, its second goes on in the parent."""
    tokenizer = letters()
    backbone = forking_backbone(seed=3)
    model = MedusaAparModel(backbone, random_heads(backbone))
    _, ids, _ = batch(3, lengths=(6,))
    tree = (decode(model, ids, max_new_tokens=60).trees or ())[0]
    spans = tree.nodes
    joins = [sum(end - start for _, start, end in spans[: n + 1]) for n in range(len(spans) - 1)]
    assert joins, "the answer should have joins"
    answer = tree.answer_token_ids()
    text = "".join(tokenizer.convert_ids_to_tokens(answer))
    join = next(at for at in joins if text.index(text[at - 1 : at + 1]) == at - 1)
    cut = decode(model, ids, max_new_tokens=60, stop_strings=text[join - 1 : join + 1], tokenizer=tokenizer)
    assert cut.trees is not None
    assert cut.trees[0].answer_token_ids() == answer[: join + 1]


def test_criteria_are_asked_about_every_token_once() -> None:
    backbone = forking_backbone(seed=0)
    model = MedusaAparModel(backbone, random_heads(backbone))
    _, ids, _ = batch(lengths=(5,))
    records = Records()
    output = decode(model, ids, apar=False, stopping_criteria=StoppingCriteriaList([records]))
    sequence = output.sequences[0].tolist()
    assert records.asked == [sequence[:length] for length in range(6, len(sequence) + 1)]


def test_a_criterion_is_asked_again_when_nothing_new_can_be_read() -> None:
    records = Records()
    stopping = Stopping(StoppingCriteriaList([records]), [4, 5], torch.device("cpu"))
    assert stopping.cut([]) is None
    assert records.asked == []
    stopping.cut([6, 7])
    stopping.cut([6, 7])
    assert records.asked == [[4, 5, 6], [4, 5, 6, 7], [4, 5, 6, 7]]


def test_max_time_ends_a_run() -> None:
    backbone = forking_backbone(seed=2)
    model = MedusaAparModel(backbone)
    _, ids, _ = batch(2, lengths=(6,))
    output = decode(model, ids, max_new_tokens=200, eos_token_id=None, apar=False, max_time=1e-9)
    assert output.sequences.shape == (1, 7)


def test_limits_and_ends_are_the_decoders_own() -> None:
    from transformers.generation.stopping_criteria import EosTokenCriteria

    records = Records()
    criteria = StoppingCriteriaList([MaxLengthCriteria(9), EosTokenCriteria([EOS, 7]), records])
    assert list(asked_criteria(criteria)) == [records]
    assert eos_token_ids(criteria) == {EOS, 7}
