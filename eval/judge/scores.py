"""The judge's scores by category and mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from ..answers.mode_turns import by_category
from ..measurement.tables import OVERALL, Column, Section, counts
from .inquiries import Assessment
from .judgements import Judgement
from .verdicts import Outcome, outcome_of, rating_of, verdict_of


@dataclass(frozen=True, slots=True)
class ModeScores:
    """Assessments of one mode.

    Attributes:
        assessments: all of them ratings, or all of them comparisons.
        judgements: what the judge said, by digest.
    """

    assessments: Sequence[Assessment]
    judgements: Mapping[str, Judgement]

    @property
    def counted(self) -> tuple[int, int, int]:
        """Judgements with a score, judgements without one, assessments without a judgement."""
        scores, judged = len(self.scores()), sum(each.said(self.judgements) is not None for each in self.assessments)
        return scores, judged - scores, len(self.assessments) - judged

    def scores(self, turn: int | None = None) -> list[float]:
        """Ratings from 1 to 10, or outcomes, of a turn, by default of all."""
        found = [self._score(each) for each in self.assessments if turn in (None, each.turn)]
        return [score for score in found if score is not None]

    def _score(self, assessment: Assessment) -> float | None:
        said = assessment.said(self.judgements)
        if said is None:
            return None
        if assessment.baseline is None:
            return rating_of(said[0].text)
        return outcome_of(*(verdict_of(each.text) for each in said)) if said else Outcome.TIE

    def mean(self, turn: int | None = None) -> float | None:
        """Mean score of a turn, by default of all; None without any."""
        return fmean(scores) if (scores := self.scores(turn)) else None


_OUTCOMES: tuple[Column[ModeScores], ...] = (
    Column("same", lambda mode: sum(not each.inquiries for each in mode.assessments), "",
           "of an answer with the same one, a tie without asking"),
    Column("wins", lambda mode: mode.scores().count(Outcome.WIN), "", "where both orders agree"),
    Column("ties", lambda mode: mode.scores().count(Outcome.TIE)),
    Column("losses", lambda mode: mode.scores().count(Outcome.LOSS), "", "where both orders agree"),
)  # fmt: skip


def summarize_scores(assessments: Sequence[Assessment], judgements: Mapping[str, Judgement]) -> Section[ModeScores]:
    """Ratings, or comparisons with one baseline: scores per category and mode, and overall, with a column per turn.

    Args:
        assessments: at least one.
        judgements: what the judge said, by digest.
    """
    baseline = assessments[0].baseline
    if baseline is None:
        title, form, meaning, outcomes = "Ratings", ".2f", "mean rating of all turns", _OUTCOMES[:0]
        judged = "ratings from 1 to 10, + judgements without a rating, + answers without a judgement"
    else:
        title, form, meaning, outcomes = f"Against {baseline}", ".0%", "(wins + ties / 2) / comparisons", _OUTCOMES
        judged = "comparisons, + those without a verdict in both orders, + those without a judgement"
    columns: list[Column[ModeScores]] = [
        Column("judged", lambda mode: mode.counted, counts, judged),
        *outcomes,
        *(
            Column(f"turn {turn}", partial(ModeScores.mean, turn=turn), form)
            for turn in sorted({each.turn for each in assessments})
        ),
        Column("all", ModeScores.mean, form, meaning),
    ]
    groups = {about: ModeScores(group, judgements) for about, group in by_category(assessments).items()}
    return Section(title, ("category", "mode"), columns, groups)


def unread(section: Section[ModeScores]) -> int:
    """How many answers, or comparisons, have a judgement that says nothing."""
    return sum(row["judged"][1] for row in section.rows if row["category"] == OVERALL)
