"""FastChat's prompts of the judge, which of them a question takes, and the reference answers that some need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from pathlib import Path
from string import Formatter

from ..answers.answer_files import Answers, read_answers
from ..measurement.json_lines import json_lines
from ..measurement.question_sets import BENCHMARKS, Question, find_published


class JudgeMode(StrEnum):
    """How the judge looks at answers."""

    SINGLE = "single"
    """It rates one answer from 1 to 10."""
    PAIRWISE = "pairwise"
    """It compares an answer with the baseline's."""


CATEGORIES_WITH_REFERENCE = ("math", "reasoning", "coding", "arena-hard-200")
"""Their answers are judged beside a reference answer, as in FastChat."""

_NAMES = {
    (JudgeMode.SINGLE, False): "single-v1",
    (JudgeMode.SINGLE, True): "single-math-v1",
    (JudgeMode.PAIRWISE, False): "pair-v2",
    (JudgeMode.PAIRWISE, True): "pair-math-v1",
}
_FIELDS = {JudgeMode.SINGLE: ("question", "answer"), JudgeMode.PAIRWISE: ("question", "answer_a", "answer_b")}
"""Of the first turn; those of the second are numbered by turn."""
_FILE = "judge_prompts.jsonl"
_REMEDY = f"take FastChat's {_FILE} as it is"


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """What the judge is told.

    Attributes:
        name: FastChat's name of the prompt.
        system: the system prompt.
        template: the user's prompt, with fields in braces.
    """

    name: str
    system: str
    template: str


def needs_reference(question: Question) -> bool:
    """Whether its answers are judged beside a reference answer."""
    return question.category in CATEGORIES_WITH_REFERENCE


def judged_turns(question: Question) -> range:
    """The turns that a judge looks at, counted from 1: both of two, otherwise the first, as in FastChat."""
    return range(1, 3 if len(question.turns) == 2 else 2)


def prompt_name(mode: JudgeMode, with_reference: bool, turn: int) -> str:
    """FastChat's name of the prompt for a turn, counted from 1."""
    return _NAMES[mode, with_reference] + ("-multi-turn" if turn > 1 else "")


def load_judge_prompts(given: str | None, mode: JudgeMode) -> dict[str, JudgePrompt]:
    """Load the four prompts of a way to judge, by name.

    Args:
        given: FastChat's file; by default it is looked for in the folder that the environment variable
            `MEDUSA_APAR_DATA` names, then on the Hugging Face hub.
        mode: how the judge looks at answers.

    Raises:
        ValueError: for a file that lacks one of the prompts, or has it with unknown fields.
        OSError: if the file is neither on this machine nor within reach.
    """
    path = _find("--judge-prompts", given, _FILE, f"data/{_FILE}")
    rows = {row.get("name"): row for _, row in json_lines(path)}
    prompts = {}
    for with_reference, turn in product((False, True), (1, 2)):
        name = prompt_name(mode, with_reference, turn)
        system, template = (rows.get(name, {}).get(part) for part in ("system_prompt", "prompt_template"))
        if not isinstance(system, str) or not isinstance(template, str):
            raise ValueError(f"{path} lacks the prompt {name!r}, its system_prompt or its prompt_template; {_REMEDY}")
        numbers = range(1, turn + 1)
        names = _FIELDS[mode] if turn == 1 else [f"{field}_{number}" for field in _FIELDS[mode] for number in numbers]
        references = [f"ref_answer_{number}" for number in numbers if with_reference]
        _check_fields(f"{path}: the template of {name!r}", template, {*names, *references})
        prompts[name] = JudgePrompt(name, system, template)
    return prompts


def _check_fields(what: str, template: str, expected: set[str]) -> None:
    try:
        fields = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise ValueError(f"{what} is broken ({error}); {_REMEDY}") from error
    if fields != expected:
        found = ", ".join(sorted(fields)) or "none"
        raise ValueError(f"{what} has the fields {found}, expected {', '.join(sorted(expected))}; {_REMEDY}")


def _find(option: str, given: str | None, in_data_folder: str, on_hub: str) -> Path:
    if given is None:
        return find_published(in_data_folder, in_data_folder, on_hub, f"or give its path with {option}")
    if not Path(given).is_file():
        raise ValueError(f"{option}={given!r} is no file; give the path of FastChat's file")
    return Path(given)


def load_references(given: str | None, question_set: str, questions: Sequence[Question]) -> Answers:
    """Load the reference answers that the questions need.

    Args:
        given: a file in FastChat's model_answer format; by default GPT-4's answers to a benchmark are looked for
            where the prompts are.
        question_set: the questions' name or path.
        questions: the questions to be judged.

    Raises:
        ValueError: if a question that needs a reference answer has none.
        OSError: if the file is neither on this machine nor within reach.
    """
    needed = [question for question in questions if needs_reference(question)]
    if not needed:
        return {}
    if given is None and question_set not in BENCHMARKS:
        raise ValueError(
            f"questions={question_set!r}: the judge reads answers to {', '.join(CATEGORIES_WITH_REFERENCE)} beside "
            "reference answers; give them with --references FILE, in FastChat's model_answer format"
        )
    published = f"{question_set}/reference-gpt-4.jsonl", f"data/{question_set}/reference_answer/gpt-4.jsonl"
    path = _find("--references", given, *published)
    references = read_answers(path)
    for question in needed:
        turns = len(judged_turns(question))
        if len(references.get(question.question_id, ())) < turns:
            raise ValueError(
                f"{path} has no reference answer to turn {turns} of question {question.question_id!r} of category "
                f"{question.category!r}; add it, or give another file with --references"
            )
    return references
