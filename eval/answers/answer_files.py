"""Answers in FastChat's model_answer format: read, and held against the questions that they are to answer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medusa_apar.modes import Mode

from ..decoding.baselines import Baseline
from ..measurement.json_lines import json_lines
from ..measurement.question_sets import Question

Answers = Mapping[int | str, tuple[str, ...]]
"""The turns' answers by question."""

_ORDER = [*map(str, Baseline), *map(str, Mode)]
_SHOWN = 5


def read_choices(path: Path) -> Iterator[tuple[str, int | str, dict[str, Any]]]:
    """Read answers in FastChat's model_answer format.

    Yields:
        The place of an answer (`FILE, line NUMBER`), its question_id, and its first choice, whose `turns` are strings.

    Raises:
        ValueError: for a line that is no answer, named by file and number.
    """
    for place, row in json_lines(path):
        question_id = row.get("question_id")
        try:
            choice, turns = row["choices"][0], row["choices"][0]["turns"]
        except (KeyError, IndexError, TypeError):
            choice = turns = None
        are_texts = isinstance(turns, list) and all(isinstance(turn, str) for turn in turns)
        if isinstance(question_id, bool) or not isinstance(question_id, int | str) or not are_texts:
            raise ValueError(
                f"{place}: no answer in FastChat's model_answer format; expected question_id and choices[0].turns"
            )
        yield place, question_id, choice


def read_answers(path: Path) -> dict[int | str, tuple[str, ...]]:
    """The answers of one file.

    Raises:
        ValueError: for a line that is no answer, or answers a question a second time; for a file without any.
    """
    answers: dict[int | str, tuple[str, ...]] = {}
    for place, question_id, choice in read_choices(path):
        if question_id in answers:
            raise ValueError(f"{place}: question_id {question_id!r} occurs a second time")
        answers[question_id] = tuple(choice["turns"])
    if not answers:
        raise ValueError(f"{path} has no answers; expected one JSON object per line")
    return answers


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
            "its --output_dir with /answers after it"
        )
    modes = sorted(paths, key=lambda mode: (_ORDER.index(mode) if mode in _ORDER else len(_ORDER), mode))
    found = {mode: read_answers(paths[mode]) for mode in modes}
    for mode, answers in found.items():
        _check(paths[mode], answers, questions, limit)
    return dict(found)


def _check(path: Path, answers: Answers, questions: Sequence[Question], limit: int | None) -> None:
    remedy = "give the questions that were answered with --questions"
    if unknown := answers.keys() - {question.question_id for question in questions}:
        raise ValueError(f"{path} answers {_named(unknown)}, which the question set lacks; {remedy}")
    wanted = {question.question_id: len(question.turns) for question in questions[:limit]}
    if missing := wanted.keys() - answers.keys():
        raise ValueError(
            f"{path} has no answer to {_named(missing)}; {remedy}, take only the first with --limit, or answer them all"
        )
    for question_id, turns in wanted.items():
        if (found := len(answers[question_id])) != turns:
            raise ValueError(f"{path} has {found} turns for question {question_id!r}, which has {turns}; {remedy}")


def _named(ids: Collection[int | str]) -> str:
    shown = sorted(ids, key=lambda id_: (isinstance(id_, str), id_))[:_SHOWN]
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return f"question {', '.join(map(repr, shown))}{more}"
