"""Answers in FastChat's model_answer format: read, and held against the questions that they are to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medusa_apar.modes import Mode

from ..decoding.baselines import Baseline
from ..decoding.variants import FIXED_TREE
from ..measurement.question_sets import Question
from .sources import read_rows

Answers = Mapping[int | str, tuple[str, ...]]
"""The turns' answers by question."""

_ORDER = [*map(str, Baseline), *map(str, Mode), FIXED_TREE]
_SHOWN = 5


def read_answers(path: Path) -> dict[int | str, tuple[str, ...]]:
    """The answers of one file.

    Raises:
        ValueError: for a line that is no answer, or answers a question a second time; for a file without any.
    """
    answers: dict[int | str, tuple[str, ...]] = {}
    for place, row in read_rows(path):
        question_id, turns = row.get("question_id"), _turns(row)
        if isinstance(question_id, bool) or not isinstance(question_id, int | str) or turns is None:
            raise ValueError(
                f"{place}: no answer in FastChat's model_answer format; expected question_id and choices[0].turns"
            )
        if question_id in answers:
            raise ValueError(f"{place}: question_id {question_id!r} occurs a second time")
        answers[question_id] = turns
    if not answers:
        raise ValueError(f"{path} has no answers; expected one JSON object per line")
    return answers


def _turns(row: dict[str, Any]) -> tuple[str, ...] | None:
    try:
        turns = row["choices"][0]["turns"]
    except (KeyError, IndexError, TypeError):
        return None
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        return None
    return tuple(turns)


def load_answers(folder: Path, questions: Sequence[Question], limit: int | None = None) -> dict[str, Answers]:
    """The answers of every mode in a folder, as `medusa-apar eval speed` writes them.

    Args:
        folder: with a file `MODE.jsonl` per mode.
        questions: the whole question set.
        limit: how many of its first questions have to be answered; by default all.

    Returns:
        Answers by mode, in the order in which other measurements show the modes.

    Raises:
        ValueError: if there is no such file, or one that does not answer these questions.
    """
    paths = {path.stem: path for path in folder.glob("*.jsonl")}
    if not paths:
        raise ValueError(
            f"answers={str(folder)!r} holds no .jsonl file; give the folder that `medusa-apar eval speed` wrote, "
            "its --output_dir with /answers behind"
        )
    modes = sorted(paths, key=lambda mode: (_ORDER.index(mode) if mode in _ORDER else len(_ORDER), mode))
    found: dict[str, Answers] = {}
    for mode in modes:
        found[mode] = read_answers(paths[mode])
        _check(paths[mode], found[mode], questions, limit)
    return found


def _check(path: Path, answers: Answers, questions: Sequence[Question], limit: int | None) -> None:
    remedy = "give the questions that were answered with --questions"
    unknown = answers.keys() - {question.question_id for question in questions}
    if unknown:
        raise ValueError(f"{path} answers {_named(unknown)}, which the question set lacks; {remedy}")
    wanted = questions[:limit]
    missing = [question.question_id for question in wanted if question.question_id not in answers]
    if missing:
        raise ValueError(
            f"{path} has no answer to {_named(missing)}; {remedy}, take only the first with --limit, or answer them all"
        )
    for question in wanted:
        turns = len(answers[question.question_id])
        if turns != len(question.turns):
            raise ValueError(
                f"{path} has {turns} turns for question {question.question_id!r}, which has {len(question.turns)}; "
                f"{remedy}"
            )


def _named(ids: Sequence[int | str] | set[int | str]) -> str:
    ids = sorted(ids, key=lambda id_: (isinstance(id_, str), id_))
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return f"question {', '.join(repr(id_) for id_ in ids[:_SHOWN])}{more}"
