"""How much of everything fits a budget of time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from ..command_line import InputError
from .rates import Rates

SHARES = {"questions": 0.05, "answers": 0.28, "backbone": 0.25, "heads": 0.35, "measurement": 0.07}
"""What part of the budget each stage may take."""
_OWN_ANSWERS = 0.22
"""What part of the budget the answers of the tuned model take, in the stage of the heads."""
_ANSWERING_FOR_HEADS = 0.4
"""What part of the stage of the heads these answers take at most."""
FEWEST, MOST = 20, 20_000
"""Questions that a plan asks for."""
_QUESTION_TOKENS = 60
"""Tokens that are sampled for a question that is used."""
_ANSWERED = 0.65
"""Tokens of a mean answer by those of the longest."""
_FORKING_EPOCHS, _DRAFTING_EPOCHS = 3, 8
"""Beyond which a training only remembers."""
_FEWEST_STEPS = 100
"""Of the optimizer, where the text is so short that these are more epochs."""
_STEPS = 400
"""Optimizer steps from which a step becomes larger, not their number."""
_LEAST_LEFT = 0.1
"""What part of the budget is left to later stages when earlier ones have used it up."""
_MEASURED = 40
"""Questions of the last stage at most."""
_MODES = 4
"""Answers' worth of time that all modes take to answer a question."""
_SINGLE = 0.15
"""Speed of one answer by that of a batch."""


@dataclass(frozen=True, slots=True)
class Training:
    """Length of a training.

    Attributes:
        steps: of the optimizer.
        accumulation: rows of each process in a step.
        seconds: estimated.
    """

    steps: int
    accumulation: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Plans stages.

    Attributes:
        rates: of this machine; one process.
        budget: seconds of all stages together.
        max_new_tokens: of the longest answer.
        max_length: tokens in a row of training.
        processes: that train together.
    """

    rates: Rates
    budget: float
    max_new_tokens: int
    max_length: int
    processes: int = 1

    @property
    def answer_tokens(self) -> float:
        """Of a mean answer."""
        return _ANSWERED * self.max_new_tokens

    def questions(self, *, written: bool) -> int:
        """How many questions fit: written or given, answered by the model, and again by the tuned one.

        Raises:
            InputError: too few for anything to be learned.
        """
        tokens = 2 * self.answer_tokens + written * _QUESTION_TOKENS
        share = SHARES["answers"] + _OWN_ANSWERS + written * SHARES["questions"]
        count = int(share * self.budget * self.rates.answering / tokens)
        if count < FEWEST:
            needed = self.budget * FEWEST / max(1, count) / 3600
            raise InputError(
                f"--budget_hours {self.budget / 3600:g} allows for {count} questions on this machine, which answers at "
                f"{self.rates.answering:.0f} tokens/s; give {ceil(10 * needed) / 10:g} or more"
            )
        return min(count, MOST)

    def writing_seconds(self, questions: int) -> float:
        """Of writing so many questions."""
        return questions * _QUESTION_TOKENS / self.rates.answering

    def answering_seconds(self, questions: int) -> float:
        """Of answering so many questions."""
        return questions * self.answer_tokens / self.rates.answering

    def backbone(self, tokens: int, spent: float) -> Training:
        """The training to fork.

        Args:
            tokens: of all rows.
            spent: seconds that went before.
        """
        return self._training(self._left("backbone", spent), self.rates.forking, tokens * _FORKING_EPOCHS)

    def own_answers(self, questions: int, spent: float) -> int:
        """How many of the questions the tuned model answers for its heads."""
        fitting = int(_ANSWERING_FOR_HEADS * self._left("heads", spent) * self.rates.answering / self.answer_tokens)
        return min(questions, max(fitting, FEWEST))

    def heads(self, tokens: int, own_answers: int, spent: float) -> Training:
        """The training of heads, after so many answers of the tuned model; its seconds include these answers."""
        answering = self.answering_seconds(own_answers)
        seconds = self._left("heads", spent)
        training = self._training(
            max(seconds - answering, _LEAST_LEFT * seconds), self.rates.drafting, tokens * _DRAFTING_EPOCHS
        )
        return Training(training.steps, training.accumulation, training.seconds + answering)

    def measured(self, held_out: int, spent: float) -> int:
        """How many held-out questions all modes answer."""
        return max(1, min(held_out, _MEASURED, int(self._left("measurement", spent) / self.measuring_seconds(1))))

    def measuring_seconds(self, questions: int) -> float:
        """Of measuring so many questions."""
        return questions * _MODES * self.answer_tokens / (_SINGLE * self.rates.answering)

    def _left(self, stage: str, spent: float) -> float:
        """Seconds for a stage: its part of what is left to it and all later ones."""
        later = list(SHARES)[list(SHARES).index(stage) :]
        left = max(self.budget - spent, _LEAST_LEFT * self.budget)
        return left * SHARES[stage] / sum(SHARES[name] for name in later)

    def _training(self, seconds: float, rate: float, most: int) -> Training:
        in_step = self.max_length * self.processes
        tokens = max(min(seconds * rate * self.processes, max(most, _FEWEST_STEPS * in_step)), in_step)
        accumulation = max(1, round(tokens / in_step / _STEPS))
        steps = max(1, round(tokens / in_step / accumulation))
        return Training(steps, accumulation, steps * accumulation * self.max_length / rate)


def duration(seconds: float) -> str:
    """As people say it: `40 s`, `12 min`, `3 h 20 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def table(seconds: Iterable[tuple[str, float]]) -> str:
    """Stages and the time that they take, a line each."""
    return "\n".join(f"  {name:12} {duration(taken):>12}" for name, taken in seconds)
