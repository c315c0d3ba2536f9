"""From measured answers to figures per category and mode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from medusa_apar.train.own_text.defects import Defect
from medusa_apar.train.own_text.repetition import LOOPING_BELOW

from ..speed.summary import OVERALL
from .measures import AnsweredTurn, Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureRow:
    """Figures of one mode in one category that need no judge; None stands for what no answer tells.

    Attributes:
        category: the category, or `overall`.
        mode: the mode.
        answers: answers that are not empty, which the other figures are about.
        empty: empty answers.
        too_long: answers without a likelihood, because they do not fit into the model's context.
        tokens: mean per answer.
        nats_per_token: minus the log-likelihood of all answers / their tokens.
        distinct_4grams: share of distinct 4-grams, mean over answers.
        looping: share of answers that loop.
        empty_details: share of answers with `Defect.EMPTY_DETAIL`.
        open_ends: share of answers with `Defect.OPEN_END`.
        misnumbered: share of answers with `Defect.NUMBERING`.
        broken: share of answers with any of these defects.
    """

    category: str
    mode: str
    answers: int
    empty: int
    too_long: int
    tokens: float | None
    nats_per_token: float | None
    distinct_4grams: float | None
    looping: float | None
    empty_details: float | None
    open_ends: float | None
    misnumbered: float | None
    broken: float | None


def summarize(turns: Sequence[AnsweredTurn], measured: Mapping[str, Measured]) -> list[MeasureRow]:
    """Figures per category, in the questions' order, and overall; modes in the turns' order."""
    categories = [*dict.fromkeys(turn.question.category for turn in turns), OVERALL]
    modes = list(dict.fromkeys(turn.mode for turn in turns))
    return [
        _summarize(
            category,
            mode,
            [turn for turn in turns if turn.mode == mode and category in (turn.question.category, OVERALL)],
            measured,
        )
        for category in categories
        for mode in modes
    ]


def _summarize(category: str, mode: str, turns: Sequence[AnsweredTurn], measured: Mapping[str, Measured]) -> MeasureRow:
    answered = [turn for turn in turns if turn.answer]
    figures = [measured[turn.digest] for turn in answered]
    read = [(one.nats, one.tokens) for one in figures if one.nats is not None]
    broken = [turn.defects for turn in answered]
    return MeasureRow(
        category=category,
        mode=mode,
        answers=len(answered),
        empty=len(turns) - len(answered),
        too_long=len(figures) - len(read),
        tokens=_mean(one.tokens for one in figures),
        nats_per_token=sum(nats for nats, _ in read) / sum(tokens for _, tokens in read) if read else None,
        distinct_4grams=_mean(one.distinct_4grams for one in figures),
        looping=_mean(one.distinct_4grams < LOOPING_BELOW for one in figures),
        empty_details=_mean(Defect.EMPTY_DETAIL in found for found in broken),
        open_ends=_mean(Defect.OPEN_END in found for found in broken),
        misnumbered=_mean(Defect.NUMBERING in found for found in broken),
        broken=_mean(bool(found) for found in broken),
    )


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return fmean(values) if values else None
