"""What the judge is asked: about one answer, or about two in both orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..answers.answer_files import Answers
from ..answers.mode_turns import ModeTurn, digest_of
from ..measurement.question_sets import Question
from .judge_prompts import JudgeMode, JudgePrompt, judged_turns, needs_reference, prompt_name
from .judgements import Judgement


@dataclass(frozen=True, slots=True)
class Inquiry:
    """One request to the judge.

    Attributes:
        question_id: whose answers it is about.
        turn: counted from 1.
        prompt: name of the judge's prompt.
        system: the system prompt.
        user: the user's prompt.
    """

    question_id: int | str
    turn: int
    prompt: str
    system: str
    user: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation that the judge goes on with."""
        return [{"role": "system", "content": self.system}, {"role": "user", "content": self.user}]

    @property
    def digest(self) -> str:
        """Name of what is asked: the same question asked of the same text is one inquiry."""
        return digest_of(self.messages)


@dataclass(frozen=True, slots=True)
class Assessment(ModeTurn):
    """An answer to be rated, or to be compared with the baseline's.

    Attributes:
        inquiries: one that asks for a rating; of a comparison two, with the mode's answer first, and with the
            baseline's first, or none where the answers are the same, which two opposite orders can only find a tie.
        baseline: the mode that it is compared with; None where it is rated.
    """

    inquiries: tuple[Inquiry, ...]
    baseline: str | None

    def said(self, judgements: Mapping[str, Judgement]) -> list[Judgement] | None:
        """The judgements that it needs, found by digest; None where one is missing."""
        digests = [inquiry.digest for inquiry in self.inquiries]
        return [judgements[digest] for digest in digests] if all(digest in judgements for digest in digests) else None


def assess(
    questions: Sequence[Question],
    answers: Mapping[str, Answers],
    prompts: Mapping[str, JudgePrompt],
    references: Answers,
    baseline: str | None = None,
) -> list[Assessment]:
    """Put every answer into the judge's prompts.

    Args:
        questions: the questions.
        answers: by mode.
        prompts: by name.
        references: reference answers.
        baseline: the mode that all others are compared with; None where answers are rated.

    Raises:
        ValueError: if nothing can be compared with this baseline.
    """
    if baseline is not None and (baseline not in answers or len(answers) < 2):
        raise ValueError(
            f"baseline={baseline!r} cannot be compared with: there are answers of {', '.join(answers)}; choose one of "
            "at least two with --baseline"
        )

    def inquiry(question: Question, turn: int, **texts: tuple[str, ...]) -> Inquiry:
        """The prompt of a turn, its fields filled with the texts of all turns, by name, numbered and not."""
        with_reference = needs_reference(question)
        way = JudgeMode.SINGLE if baseline is None else JudgeMode.PAIRWISE
        prompt = prompts[prompt_name(way, with_reference, turn)]
        texts["question"] = question.turns
        if with_reference:
            texts["ref_answer"] = references[question.question_id]
        fields = {name: by_turn[0] for name, by_turn in texts.items()}
        for name, by_turn in texts.items():
            fields |= {f"{name}_{number}": text for number, text in enumerate(by_turn, start=1)}
        return Inquiry(question.question_id, turn, prompt.name, prompt.system, prompt.template.format(**fields))

    def inquiries(question: Question, turn: int, mode: str) -> tuple[Inquiry, ...]:
        own = answers[mode][question.question_id]
        if baseline is None:
            return (inquiry(question, turn, answer=own),)
        other = answers[baseline][question.question_id]
        orders = () if own[:turn] == other[:turn] else ((own, other), (other, own))
        return tuple(inquiry(question, turn, answer_a=first, answer_b=second) for first, second in orders)

    return [
        Assessment(question, turn, mode, inquiries(question, turn, mode), baseline)
        for mode in answers
        if mode != baseline
        for question in questions
        for turn in judged_turns(question)
    ]
