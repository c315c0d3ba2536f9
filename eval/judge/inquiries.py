"""What the judge is asked: about one answer, or about two in both orders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..answers.answer_files import Answers
from ..measurement.question_sets import Question
from .judge_prompts import JudgeMode, JudgePrompt, needs_reference, prompt_name
from .references import judged_turns

_DIGEST_LENGTH = 32


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


def digest_of(messages: Sequence[Mapping[str, str]]) -> str:
    """Short name of a conversation's content."""
    return hashlib.sha256(json.dumps(list(messages)).encode()).hexdigest()[:_DIGEST_LENGTH]


@dataclass(frozen=True, slots=True)
class Grading:
    """An answer to be rated."""

    question: Question
    turn: int
    mode: str
    inquiry: Inquiry


@dataclass(frozen=True, slots=True)
class Match:
    """An answer to be compared with the baseline's.

    Attributes:
        question: what was answered.
        turn: counted from 1.
        mode: who answered.
        baseline: the mode that it is compared with.
        inquiries: two, with the mode's answer first, and with the baseline's first; none where the answers are the
            same, which two opposite orders can only find a tie.
    """

    question: Question
    turn: int
    mode: str
    baseline: str
    inquiries: tuple[Inquiry, ...]


class Inquirer:
    """Puts questions and answers into the judge's prompts.

    Args:
        questions: the questions.
        prompts: the prompts by name.
        references: reference answers.
    """

    def __init__(self, questions: Sequence[Question], prompts: Mapping[str, JudgePrompt], references: Answers) -> None:
        self.questions = questions
        self.prompts = prompts
        self.references = references

    def gradings(self, mode: str, answers: Answers) -> list[Grading]:
        """Every answer of a mode, to be rated."""
        return [
            Grading(question, turn, mode, self._about_one(question, turn, answers[question.question_id]))
            for question in self.questions
            for turn in judged_turns(question)
        ]

    def matches(self, mode: str, answers: Answers, baseline: str, others: Answers) -> list[Match]:
        """Every answer of a mode against the baseline's."""
        return [
            self._match(question, turn, (mode, answers[question.question_id]), (baseline, others[question.question_id]))
            for question in self.questions
            for turn in judged_turns(question)
        ]

    def _match(
        self, question: Question, turn: int, own: tuple[str, tuple[str, ...]], other: tuple[str, tuple[str, ...]]
    ) -> Match:
        (mode, answers), (baseline, others) = own, other
        if answers[:turn] == others[:turn]:
            return Match(question, turn, mode, baseline, ())
        orders = ((answers, others), (others, answers))
        inquiries = tuple(self._about_two(question, turn, first, second) for first, second in orders)
        return Match(question, turn, mode, baseline, inquiries)

    def _about_one(self, question: Question, turn: int, answers: tuple[str, ...]) -> Inquiry:
        if turn == 1:
            fields = {"question": question.turns[0], "answer": answers[0]}
        else:
            fields = {**_numbered("question", question.turns[:2]), **_numbered("answer", answers[:2])}
        return self._inquiry(JudgeMode.SINGLE, question, turn, fields)

    def _about_two(self, question: Question, turn: int, first: tuple[str, ...], second: tuple[str, ...]) -> Inquiry:
        if turn == 1:
            fields = {"question": question.turns[0], "answer_a": first[0], "answer_b": second[0]}
        else:
            fields = {
                **_numbered("question", question.turns[:2]),
                **_numbered("answer_a", first[:2]),
                **_numbered("answer_b", second[:2]),
            }
        return self._inquiry(JudgeMode.PAIRWISE, question, turn, fields)

    def _inquiry(self, mode: JudgeMode, question: Question, turn: int, fields: Mapping[str, str]) -> Inquiry:
        prompt = self.prompts[prompt_name(mode, question.category, turn)]
        references = self.references[question.question_id] if needs_reference(question.category) else ()
        user = prompt.template.format(**fields, **_numbered("ref_answer", references))
        return Inquiry(question.question_id, turn, prompt.name, prompt.system, user)


def _numbered(name: str, values: Sequence[str]) -> dict[str, str]:
    return {f"{name}_{number}": value for number, value in enumerate(values, start=1)}
