"""Everything that the judge is to be asked, and the store of what it said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..answers.answer_files import Answers
from ..measurement.question_sets import Question
from ..measurement.tables import Section
from .inquiries import Grading, Inquirer, Inquiry, Match
from .judge_prompts import JudgeMode, load_judge_prompts
from .judgements import Judgement
from .judgment_files import write_comparisons, write_ratings
from .options import JudgeOptions
from .references import load_references
from .scores import PairScore, Score, compare, rate
from .tables import pairs_section, scores_section


@dataclass(frozen=True, slots=True)
class JudgePlan:
    """What is to be judged.

    Attributes:
        options: who judges.
        gradings: answers to be rated.
        matches: answers to be compared with the baseline's.
    """

    options: JudgeOptions
    gradings: Sequence[Grading] = ()
    matches: Sequence[Match] = ()

    @property
    def inquiries(self) -> list[Inquiry]:
        """All that is to be asked."""
        return [
            *(grading.inquiry for grading in self.gradings),
            *(inquiry for match in self.matches for inquiry in match.inquiries),
        ]

    def scores(self, judgements: Mapping[str, Judgement]) -> list[Score]:
        """What the ratings come to."""
        return rate(self.gradings, judgements) if self.gradings else []

    def pairs(self, judgements: Mapping[str, Judgement]) -> list[PairScore]:
        """What the comparisons come to."""
        return compare(self.matches, judgements) if self.matches else []

    def sections(self, judgements: Mapping[str, Judgement]) -> list[Section]:
        """The judge's tables."""
        ratings = [scores_section(self.scores(judgements))] if self.gradings else []
        comparisons = [pairs_section(self.pairs(judgements))] if self.matches else []
        return ratings + comparisons

    def write(self, folder: Path, judgements: Mapping[str, Judgement]) -> None:
        """Write what was judged in FastChat's format."""
        if self.gradings:
            write_ratings(folder / "single.jsonl", self.options.model, self.gradings, judgements)
        if self.matches:
            write_comparisons(folder / "pairwise.jsonl", self.options.model, self.matches, judgements)


def plan(
    options: JudgeOptions,
    mode: JudgeMode,
    question_set: str,
    questions: Sequence[Question],
    answers: Mapping[str, Answers],
    *,
    baseline: str,
    prompts: str | None,
    references: str | None,
) -> JudgePlan:
    """Lay out what the judge is to be asked.

    Args:
        options: who judges.
        mode: how it looks at answers.
        question_set: the questions' name or path.
        questions: the questions.
        answers: by mode.
        baseline: the mode that others are compared with.
        prompts: FastChat's file of prompts, where it is not to be looked for.
        references: the file of reference answers, where it is not to be looked for.

    Raises:
        ValueError: if the baseline has no answers, or a file is not what it should be.
        OSError: if a file is neither on this machine nor within reach.
    """
    if mode is JudgeMode.PAIRWISE and (baseline not in answers or len(answers) < 2):
        raise ValueError(
            f"baseline={baseline!r} cannot be compared with: there are answers of {', '.join(answers)}; choose one of "
            "at least two with --baseline"
        )
    inquirer = Inquirer(
        questions, load_judge_prompts(prompts, mode), load_references(references, question_set, questions)
    )
    if mode is JudgeMode.SINGLE:
        return JudgePlan(options, [item for name, given in answers.items() for item in inquirer.gradings(name, given)])
    matches = [
        item
        for name, given in answers.items()
        if name != baseline
        for item in inquirer.matches(name, given, baseline, answers[baseline])
    ]
    return JudgePlan(options, matches=matches)
