"""FastChat's prompts of the judge, and which of them a question takes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from string import Formatter

from ..answers.sources import find_file, read_rows


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
_FIELDS = {
    (JudgeMode.SINGLE, 1): {"question", "answer"},
    (JudgeMode.SINGLE, 2): {"question_1", "answer_1", "question_2", "answer_2"},
    (JudgeMode.PAIRWISE, 1): {"question", "answer_a", "answer_b"},
    (JudgeMode.PAIRWISE, 2): {"question_1", "answer_a_1", "answer_b_1", "question_2", "answer_a_2", "answer_b_2"},
}
_FILE = "judge_prompts.jsonl"


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


def needs_reference(category: str) -> bool:
    """Whether a category's answers are judged beside a reference answer."""
    return category in CATEGORIES_WITH_REFERENCE


def prompt_name(mode: JudgeMode, category: str, turn: int) -> str:
    """FastChat's name of the prompt for a turn of a question, counted from 1."""
    return _NAMES[mode, needs_reference(category)] + ("-multi-turn" if turn > 1 else "")


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
    path = find_file("--judge-prompts", given, _FILE, f"data/{_FILE}")
    rows = {row.get("name"): (place, row) for place, row in read_rows(path)}
    prompts = {}
    for with_reference in (False, True):
        for turn in (1, 2):
            name = _NAMES[mode, with_reference] + ("-multi-turn" if turn > 1 else "")
            if name not in rows:
                raise ValueError(f"{path} lacks the prompt {name!r}; take FastChat's {_FILE} as it is")
            place, row = rows[name]
            prompts[name] = _prompt(place, name, row)
            _check_fields(path, prompts[name], _FIELDS[mode, turn] | _reference_fields(turn, with_reference))
    return prompts


def _reference_fields(turn: int, with_reference: bool) -> set[str]:
    return {f"ref_answer_{number}" for number in range(1, turn + 1)} if with_reference else set()


def _prompt(place: str, name: str, row: dict[str, object]) -> JudgePrompt:
    system, template = row.get("system_prompt"), row.get("prompt_template")
    if not isinstance(system, str) or not isinstance(template, str):
        raise ValueError(f"{place}: {name!r} has no system_prompt or no prompt_template; take FastChat's file as it is")
    return JudgePrompt(name, system, template)


def _check_fields(path: Path, prompt: JudgePrompt, expected: set[str]) -> None:
    try:
        fields = {field for _, field, _, _ in Formatter().parse(prompt.template) if field is not None}
    except ValueError as error:
        raise ValueError(f"{path}: the template of {prompt.name!r} is broken: {error}") from error
    if fields != expected:
        raise ValueError(
            f"{path}: the template of {prompt.name!r} has the fields {', '.join(sorted(fields)) or 'none'}, "
            f"expected {', '.join(sorted(expected))}; take FastChat's file as it is"
        )
