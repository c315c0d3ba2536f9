"""Reading recorded answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from medusa_apar.eval.measurement.question_sets import read_questions
from medusa_apar.eval.replay.recorded import read_recorded

from .recorded_answers import LISTED, PROSE, recorded


def test_every_answered_turn_comes_with_its_conversation(questions_file: Path, answers_file: Path) -> None:
    turns = read_recorded(answers_file, read_questions(questions_file))
    assert [(turn.question_id, turn.turn) for turn in turns[:3]] == [(1, 1), (1, 2), (2, 1)]
    assert turns[0].conversation == "Which colours?"
    assert turns[1].conversation == f"Which colours?{LISTED}Why?"
    assert (turns[0].tokens, turns[1].tokens) == (60, 30)
    assert (turns[0].steps, turns[1].steps) == (24, 12), "recorded steps are counted from 0"


def test_tokens_that_were_not_counted_are_estimated(questions_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "plain.jsonl"
    path.write_text(recorded(1))
    turns = read_recorded(path, read_questions(questions_file))
    assert turns[1].tokens == round(len(PROSE) / 4) + 1
    assert turns[1].steps is None


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("{", "line 1: not JSON"),
        (recorded(99), "line 1: no answer to any of the questions .99.; give the --questions that it answers"),
        ('{"question_id": 1, "choices": []}', "line 1: no answer in FastChat's model_answer format"),
        ('{"question_id": 1, "choices": [{"turns": ["a", "b", "c"]}]}', "3 answers to 2 turns"),
        ('{"question_id": 1, "choices": [{"turns": [1]}]}', "line 1: no answer in FastChat's model_answer format"),
        ('{"question_id": 1, "choices": [{"turns": ["\\ud83d"]}]}', "half of a surrogate pair"),
        (recorded(1, new_tokens=[0, 3]), r"new_tokens is \[0, 3\], expected whole numbers from 1"),
        (recorded(1, idxs=["a"]), r"idxs is \['a'\], expected whole numbers from 0"),  # type: ignore[list-item]
    ],
)
def test_a_line_that_is_no_answer(questions_file: Path, tmp_path: Path, line: str, error: str) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text(line)
    with pytest.raises(ValueError, match=error):
        read_recorded(path, read_questions(questions_file))
