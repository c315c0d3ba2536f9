"""Question sets in FastChat's format: one JSON object per line with `question_id`, `category` and `turns`."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from .json_lines import json_lines

DATA_VARIABLE = "MEDUSA_APAR_DATA"
BUNDLED = ("everyday", "lists")
BENCHMARKS = ("mt_bench", "vicuna_bench")

_BUNDLED_FOLDER = Path(__file__).parents[1] / "questions"
_SPACE = "lmsys/mt-bench"


@dataclass(frozen=True, slots=True)
class Question:
    """One conversation to be had with a model.

    Attributes:
        question_id: unique in its set.
        category: the group in which results are shown.
        turns: what the user says, turn by turn.
        reference: reference answers by turn, where the set has them.
    """

    question_id: int | str
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...] = ()


def load_questions(source: str) -> list[Question]:
    """Load a question set, its categories taking turns.

    Args:
        source: a file, or a name: `everyday` and `lists` are bundled; `mt_bench` and `vicuna_bench` are looked for
            in the folder that the environment variable `MEDUSA_APAR_DATA` names, then on the Hugging Face hub.

    Raises:
        ValueError: for an unknown name, or a broken line, named by file and number.
        OSError: for a benchmark that is neither on this machine nor within reach.
    """
    return in_turn(read_questions(find_questions(source)))


def in_turn(questions: Sequence[Question]) -> list[Question]:
    """The first question of every category, then the second of every one, and so on.

    The first so many of them, or those that an interrupted run has answered, then stand for the whole set.
    """
    ranks: defaultdict[str, int] = defaultdict(int)
    ranked = []
    for question in questions:
        ranked.append((ranks[question.category], question))
        ranks[question.category] += 1
    return [question for _, question in sorted(ranked, key=lambda pair: pair[0])]


def find_questions(source: str) -> Path:
    """The file of a question set that a name or a path stands for; fetched where it must be."""
    if source in BUNDLED:
        return _BUNDLED_FOLDER / f"{source}.jsonl"
    if source in BENCHMARKS:
        return _find_benchmark(source)
    path = Path(source)
    if path.is_file():
        return path
    names = ", ".join(BUNDLED + BENCHMARKS)
    raise ValueError(f"questions={source!r} is neither a file nor a known set; give a file or one of {names}")


def _find_benchmark(name: str) -> Path:
    remedy = f"give its path, or use a bundled set: {', '.join(BUNDLED)}"
    return find_published(f"questions={name!r}", f"{name}/question.jsonl", f"data/{name}/question.jsonl", remedy)


def find_published(what: str, in_data_folder: str, on_hub: str, remedy: str) -> Path:
    """A file that FastChat's authors published, in the data folder or on the Hugging Face hub.

    Args:
        what: for errors.
        in_data_folder: its path in the folder that the environment variable `MEDUSA_APAR_DATA` names.
        on_hub: its path in the space of MT-Bench.
        remedy: for errors, beside putting it into that folder.

    Raises:
        OSError: if it is neither on this machine nor within reach.
    """
    folder = os.environ.get(DATA_VARIABLE)
    if folder and (Path(folder) / in_data_folder).is_file():
        return Path(folder) / in_data_folder
    try:
        return Path(hf_hub_download(_SPACE, on_hub, repo_type="space"))
    except OSError as error:
        where = f"not in {folder}, the folder that {DATA_VARIABLE} names" if folder else f"{DATA_VARIABLE} is not set"
        raise OSError(
            f"{what}: {where}, and the Hugging Face hub did not give it ({error}); offline, put the file "
            f"at ${DATA_VARIABLE}/{in_data_folder}, {remedy}"
        ) from error


def read_questions(path: Path) -> list[Question]:
    """Read a question file; blank lines are passed over.

    Raises:
        ValueError: for a line that is no question; for a file without any.
    """
    questions: dict[int | str, Question] = {}
    for place, row in json_lines(path):
        try:
            question = _question_of(row)
            if question.question_id in questions:
                raise ValueError(f"question_id {question.question_id!r} occurs a second time")
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        questions[question.question_id] = question
    if not questions:
        raise ValueError(f"{path} has no questions; expected one JSON object per line")
    return list(questions.values())


def _question_of(row: dict[str, Any]) -> Question:
    missing = [key for key in ("question_id", "category", "turns") if key not in row]
    if missing:
        raise ValueError(f"missing {', '.join(missing)}")
    question_id, category = row["question_id"], row["category"]
    if isinstance(question_id, bool) or not isinstance(question_id, int | str):
        raise ValueError(f"question_id is {question_id!r}, expected a number or a string")
    if not isinstance(category, str) or not category.strip():
        raise ValueError(f"category is {category!r}, expected a name")
    turns = _strings(row, "turns")
    if not turns:
        raise ValueError("turns is empty, expected at least one")
    if not all(turn.strip() for turn in turns):
        raise ValueError(f"turn {[bool(turn.strip()) for turn in turns].index(False) + 1} is empty")
    return Question(question_id, category, turns, _strings(row, "reference") if row.get("reference") else ())


def _strings(row: dict[str, Any], key: str) -> tuple[str, ...]:
    value = row[key]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{key} is {value!r}, expected a list of strings")
    return tuple(value)
