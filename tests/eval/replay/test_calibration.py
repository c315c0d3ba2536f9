"""Fitting the correlation to a recorded run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medusa_apar.eval.measurement.question_sets import read_questions
from medusa_apar.eval.replay.calibration import calibrate, simulated_steps, tokens_per_step
from medusa_apar.eval.replay.hits import RANKS, HitModel
from medusa_apar.eval.replay.recorded import RecordedTurn, read_recorded


def turns(count: int, tokens: int = 300) -> list[RecordedTurn]:
    return [RecordedTurn(number, "writing", 1, "?", "text", tokens, None) for number in range(count)]


def test_a_step_goes_as_far_as_the_right_tokens_are_in_the_tree() -> None:
    tree = frozenset({(0,), (1,), (0, 0)})
    never = np.full((5, 2), RANKS)
    assert simulated_steps(never, tree) == 4, "the first token comes with the prompt"
    always = np.zeros((7, 2), dtype=np.int64)
    assert simulated_steps(always, tree) == 2
    second = np.full((5, 2), 1)
    assert simulated_steps(second, tree) == 2, "(1, 1) is not in the tree, but (1,) is"


def test_the_fit_finds_the_correlation_that_made_the_run() -> None:
    made = HitModel.published(0.4)
    run = []
    for number, turn in enumerate(turns(120)):
        steps = simulated_steps(made.draw(turn.tokens, seed=(7, number)))
        run.append(replace(turn, steps=steps))
    calibration = calibrate(run)
    assert calibration.correlation == pytest.approx(0.4, abs=0.1)
    assert abs(calibration.error) < 0.03


def test_correlation_lengthens_what_is_accepted() -> None:
    speeds = [tokens_per_step(turns(40), correlation) for correlation in (0.0, 0.3, 0.6)]
    assert speeds == sorted(speeds)
    assert speeds[0] == pytest.approx(2.43, abs=0.06)


@pytest.mark.parametrize(
    ("run", "error"),
    [
        (turns(4), "record no steps"),
        ([replace(each, steps=100) for each in turns(1)], "answers to calibrate on are to 1 questions"),
    ],
)
def test_runs_that_tell_nothing(run: list[RecordedTurn], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        calibrate(run)


@pytest.mark.parametrize("model", ["7b", "13b"])
def test_the_recorded_run_of_vicuna_is_met_on_questions_that_the_fit_did_not_see(data_folder: Path, model: str) -> None:
    questions = read_questions(data_folder / "mt_bench" / "question.jsonl")
    path = data_folder / "mt_bench" / f"answers-medusa-vicuna-{model}-v1.3.jsonl"
    calibration = calibrate(read_recorded(path, questions))
    assert abs(calibration.error) < 0.03
