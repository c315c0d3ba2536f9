"""Answers that a real model once gave, with what their run recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..measurement.question_sets import Question, parse_line

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
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = parse_line(line)
                question, choice = by_id[row["question_id"]], row["choices"][0]
                _check_choice(choice, question)
            except KeyError as error:
                raise ValueError(
                    f"{path}, line {number}: no answer to any of the questions ({error}); give the --questions that "
                    "it answers, in FastChat's formats"
                ) from error
            except (ValueError, TypeError, IndexError) as error:
                raise ValueError(f"{path}, line {number}: not FastChat's model_answer format ({error})") from error
            rows.append((question, choice))
    counted = [pair for _, row in rows for pair in zip(row["turns"], row.get("new_tokens", ()), strict=False)]
    characters, tokens = sum(len(text) for text, _ in counted), sum(count for _, count in counted)
    per_token = characters / tokens if tokens else CHARACTERS_PER_TOKEN
    return [turn for question, choice in rows for turn in _turns(question, choice, per_token)]


def _check_choice(choice: dict[str, Any], question: Question) -> None:
    """Raise a ValueError, KeyError or TypeError for a choice that does not answer a question."""
    if not isinstance(choice["turns"], list) or not all(isinstance(answer, str) for answer in choice["turns"]):
        raise ValueError(f"turns is {choice['turns']!r}, expected a list of strings")
    if len(choice["turns"]) > len(question.turns):
        raise ValueError(f"{len(choice['turns'])} answers to {len(question.turns)} turns")
    for name, least in (("new_tokens", 1), ("idxs", 0)):
        figures = choice.get(name, [])
        if not isinstance(figures, list) or not all(isinstance(each, int) and each >= least for each in figures):
            raise ValueError(f"{name} is {figures!r}, expected whole numbers from {least}")


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
