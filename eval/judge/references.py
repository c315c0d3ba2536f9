"""Reference answers, beside which the judge reads answers to math, reasoning and coding."""

from __future__ import annotations

from collections.abc import Sequence

from ..answers.answer_files import Answers, read_answers
from ..answers.sources import find_file
from ..measurement.question_sets import BENCHMARKS, Question
from .judge_prompts import CATEGORIES_WITH_REFERENCE, needs_reference


def load_references(given: str | None, question_set: str, questions: Sequence[Question]) -> Answers:
    """Load the reference answers that the questions need.

    Args:
        given: a file in FastChat's model_answer format; by default GPT-4's answers to a benchmark are looked for in
            the folder that the environment variable `MEDUSA_APAR_DATA` names, then on the Hugging Face hub.
        question_set: the questions' name or path.
        questions: the questions to be judged.

    Raises:
        ValueError: if a question that needs a reference answer has none.
        OSError: if the file is neither on this machine nor within reach.
    """
    needed = [question for question in questions if needs_reference(question.category)]
    if not needed:
        return {}
    categories = ", ".join(CATEGORIES_WITH_REFERENCE)
    if given is None and question_set not in BENCHMARKS:
        raise ValueError(
            f"questions={question_set!r}: the judge reads answers to {categories} beside reference answers; "
            "give them with --references FILE, in FastChat's model_answer format"
        )
    on_hub = f"data/{question_set}/reference_answer/gpt-4.jsonl"
    path = find_file("--references", given, f"{question_set}/reference-gpt-4.jsonl", on_hub)
    references = read_answers(path)
    for question in needed:
        turns = judged_turns(question)
        if len(references.get(question.question_id, ())) < len(turns):
            raise ValueError(
                f"{path} has no reference answer to turn {turns[-1]} of question {question.question_id!r} of category "
                f"{question.category!r}; add it, or give another file with --references"
            )
    return references


def judged_turns(question: Question) -> range:
    """The turns that a judge looks at, counted from 1: both of two, otherwise the first, as in FastChat."""
    return range(1, 3 if len(question.turns) == 2 else 2)
