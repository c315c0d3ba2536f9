"""Answer files: FastChat's format, and whether they answer the questions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medusa_apar.eval.answers.answer_files import load_answers, read_answers
from medusa_apar.eval.measurement.question_sets import Question, load_questions

QUESTIONS = [Question(1, "math", ("One?", "Two?")), Question(2, "stem", ("Three?",))]
ANSWERS = {1: ("1", "2"), 2: ("3",)}
WriteAnswers = Callable[..., Path]


def test_reads_the_modes_in_the_order_of_other_measurements(write_answers: WriteAnswers) -> None:
    for mode in ("zebra", "apar", "ar", "generate", "medusa-apar"):
        folder = write_answers(mode, ANSWERS).parent
    loaded = load_answers(folder, QUESTIONS)
    assert list(loaded) == ["generate", "ar", "apar", "medusa-apar", "zebra"]
    assert loaded["apar"] == ANSWERS


def test_reads_published_answers(data_folder: Path) -> None:
    answers = read_answers(data_folder / "mt_bench" / "answers-medusa-vicuna-7b-v1.3.jsonl")
    questions = load_questions(str(data_folder / "mt_bench" / "question.jsonl"))
    assert sorted(answers) == sorted(question.question_id for question in questions)
    assert {len(turns) for turns in answers.values()} == {2}


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({1: ("1", "2")}, "ar.jsonl has no answer to question 2; give the questions that were answered with"),
        ({**ANSWERS, 7: ("4",), 5: ("4",)}, "ar.jsonl answers question 5, 7, which the question set lacks"),
        ({1: ("1",), 2: ("3",)}, "ar.jsonl has 1 turns for question 1, which has 2"),
    ],
)
def test_refuses_answers_to_other_questions(
    write_answers: WriteAnswers, answers: dict[int, tuple[str, ...]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_answers(write_answers("ar", answers).parent, QUESTIONS)


def test_asks_for_the_first_answers_alone_where_told(write_answers: WriteAnswers) -> None:
    folder = write_answers("ar", {1: ("1", "2")}).parent
    assert load_answers(folder, QUESTIONS, limit=1) == {"ar": {1: ("1", "2")}}


def test_refuses_a_folder_without_answers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no .jsonl file; give the folder that `medusa-apar eval speed` wrote"):
        load_answers(tmp_path, QUESTIONS)


GOOD = '{"question_id": 1, "choices": [{"turns": ["a"]}]}'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "expected a JSON object, got list"),
        ('{"question_id": 2}', "no answer in FastChat's model_answer format"),
        ('{"question_id": 2, "choices": []}', "no answer in FastChat's model_answer format"),
        ('{"question_id": 2, "choices": [{"turns": "a"}]}', "no answer in FastChat's model_answer format"),
        ('{"question_id": true, "choices": [{"turns": ["a"]}]}', "no answer in FastChat's model_answer format"),
        (GOOD, "question_id 1 occurs a second time"),
    ],
)
def test_names_a_broken_line(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "ar.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n")
    with pytest.raises(ValueError, match=f"ar.jsonl, line 3: {reason}"):
        read_answers(path)


def test_refuses_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "ar.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="has no answers"):
        read_answers(tmp_path / "ar.jsonl")
