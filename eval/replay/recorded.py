"""Answers that a real model once gave, with what their run recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..answers.answer_files import read_choices
from ..measurement.question_sets import Question

CHARACTERS_PER_TOKEN = 4.0
"""Of English text under a Llama tokenizer, where a file has no counts by which to tell."""


@dataclass(frozen=True, slots=True)
class RecordedTurn:
    """One turn of a recorded conversation.

    Attributes:
        question_id, category, turn: of the question; turns count from 1.
        conversation: everything before the answer, the question of this turn included.
        answer: what the model said.
        tokens: of the answer, its EOS included; counted by the run, or estimated from the answer's length.
        steps: forward passes that the run took for them; None where it recorded none.
    """

    question_id: int | str
    category: str
    turn: int
    conversation: str
    answer: str
    tokens: int
    steps: int | None


def read_recorded(path: Path, questions: Sequence[Question]) -> list[RecordedTurn]:
    """Read answers in FastChat's model_answer format, with medusa-llm's `new_tokens` and `idxs` where they are.

    Turns without text are left out. Tokens that were not counted are estimated by the characters per token of the
    counted ones, or by `CHARACTERS_PER_TOKEN`.

    Raises:
        ValueError: for a line that is no answer, or an answer to no question; names file, line and remedy.
    """
    by_id = {question.question_id: question for question in questions}
    rows: list[tuple[Question, dict[str, Any]]] = []
    for place, question_id, choice in read_choices(path):
        if question_id not in by_id:
            raise ValueError(
                f"{place}: no answer to any of the questions ({question_id!r}); give the --questions that it answers, "
                "in FastChat's formats"
            )
        _check(place, choice, by_id[question_id])
        rows.append((by_id[question_id], choice))
    counted = [pair for _, row in rows for pair in zip(row["turns"], row.get("new_tokens", ()), strict=False)]
    characters, tokens = sum(len(text) for text, _ in counted), sum(count for _, count in counted)
    per_token = characters / tokens if tokens else CHARACTERS_PER_TOKEN
    return [turn for question, choice in rows for turn in _turns(question, choice, per_token)]


def _check(place: str, choice: dict[str, Any], question: Question) -> None:
    if (answers := len(choice["turns"])) > (asked := len(question.turns)):
        raise ValueError(f"{place}: {answers} answers to {asked} turns of question {question.question_id!r}")
    for name, least in (("new_tokens", 1), ("idxs", 0)):
        figures = choice.get(name, [])
        if not isinstance(figures, list) or not all(isinstance(each, int) and each >= least for each in figures):
            raise ValueError(f"{place}: {name} is {figures!r}, expected whole numbers from {least}")


def _turns(question: Question, choice: dict[str, Any], characters_per_token: float) -> Iterator[RecordedTurn]:
    tokens, last_steps = choice.get("new_tokens", ()), choice.get("idxs", ())
    conversation = ""
    for at, answer in enumerate(choice["turns"]):
        conversation += question.turns[at]
        if answer.strip():
            yield RecordedTurn(
                question_id=question.question_id,
                category=question.category,
                turn=at + 1,
                conversation=conversation,
                answer=answer,
                tokens=tokens[at] if at < len(tokens) else round(len(answer) / characters_per_token) + 1,
                steps=last_steps[at] + 1 if at < len(last_steps) else None,
            )
        conversation += answer
