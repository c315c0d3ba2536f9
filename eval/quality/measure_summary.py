"""Figures without a judge by category and mode, from measured answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from medusa_apar.train.own_text.defects import Defect
from medusa_apar.train.own_text.repetition import LOOPING_BELOW

from ..answers.mode_turns import by_category
from ..measurement.tables import Column, Section, counts
from .measures import AnsweredTurn, Measured


@dataclass(frozen=True, slots=True)
class ModeAnswers:
    """Answers of one mode.

    Attributes:
        measured: those that are not empty, with their figures.
        empty: how many others there are.
    """

    measured: Sequence[tuple[AnsweredTurn, Measured]]
    empty: int

    @property
    def read(self) -> list[tuple[float, int]]:
        """Nats and tokens of the answers that have a likelihood."""
        return [(each.nats, each.tokens) for _, each in self.measured if each.nats is not None]

    @property
    def nats_per_token(self) -> float | None:
        """Of all answers together; None where none has a likelihood."""
        return sum(nats for nats, _ in read) / sum(tokens for _, tokens in read) if (read := self.read) else None


def _mean(figure: Callable[[AnsweredTurn, Measured], float]) -> Callable[[ModeAnswers], float | None]:
    """A figure's mean over the answers that are not empty; None without any."""
    return lambda answers: fmean(figure(*each) for each in answers.measured) if answers.measured else None


COLUMNS: tuple[Column[ModeAnswers], ...] = (
    Column("answers", lambda answers: (len(answers.measured), answers.empty), counts, "not empty + empty"),
    Column("tokens", _mean(lambda _, measured: measured.tokens), ".0f", "mean per answer"),
    Column("nats/token", lambda answers: answers.nats_per_token, ".3f",
           "minus the log-likelihood of the text to the backbone, read from beginning to end, lower is likelier"),
    Column("4-grams", _mean(lambda _, measured: measured.distinct_4grams), ".2f", "share of distinct ones"),
    Column("loops", _mean(lambda _, measured: measured.distinct_4grams < LOOPING_BELOW), ".0%",
           f"share of answers with fewer than {LOOPING_BELOW} of them"),
    Column("empty", _mean(lambda turn, _: Defect.EMPTY_DETAIL in turn.defects), ".0%",
           "of answers with an item or a heading with nothing after it"),
    Column("open", _mean(lambda turn, _: Defect.OPEN_END in turn.defects), ".0%", "of answers that end in a colon"),
    Column("numbers", _mean(lambda turn, _: Defect.NUMBERING in turn.defects), ".0%",
           "of answers whose numbering skips or repeats"),
    Column("broken", _mean(lambda turn, _: bool(turn.defects)), ".0%", "of answers with any of the three"),
    Column("too long", lambda answers: len(answers.measured) - len(answers.read), "",
           "answers without a likelihood, because they do not fit into the model's context", on_terminal=False),
)  # fmt: skip


def summarize(turns: Sequence[AnsweredTurn], measured: Mapping[str, Measured]) -> Section[ModeAnswers]:
    """Figures per category and mode, and overall.

    Args:
        turns: of all modes.
        measured: figures of the answers that are not empty, by digest.
    """
    groups = {}
    for about, group in by_category(turns).items():
        answered = [(turn, measured[turn.digest]) for turn in group if turn.answer]
        groups[about] = ModeAnswers(answered, len(group) - len(answered))
    return Section("Without a judge", ("category", "mode"), COLUMNS, groups)
