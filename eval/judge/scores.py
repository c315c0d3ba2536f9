"""From judgements to scores per category, turn and mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

from ..speed.summary import OVERALL
from .inquiries import Grading, Match
from .judgements import Judgement
from .verdicts import Outcome, outcome_of, rating_of, verdict_of

Judgements = Mapping[str, Judgement]
JudgedT = TypeVar("JudgedT", Grading, Match)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Ratings of one mode in one category.

    Attributes:
        category: the category, or `overall`.
        mode: the mode.
        turn: counted from 1; None for all turns together.
        judgements: ratings, which the score is about.
        unrated: judgements without a rating.
        missing: answers without a judgement.
        score: mean rating, from 1 to 10; None without a rating.
    """

    category: str
    mode: str
    turn: int | None
    judgements: int
    unrated: int
    missing: int
    score: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairScore:
    """How one mode's answers compare with the baseline's in one category.

    Attributes:
        category: the category, or `overall`.
        mode: the mode.
        baseline: the mode that it is compared with.
        turn: counted from 1; None for all turns together.
        judgements: comparisons with a verdict in both orders, and ties of same answers.
        same: of these, comparisons of an answer with the same one, which nobody was asked about.
        wins: of the mode, in both orders.
        ties: verdicts of a tie, and verdicts that the order turned.
        losses: of the mode, in both orders.
        unrated: comparisons without a verdict in one of the orders.
        missing: comparisons without a judgement in one of the orders.
        win_rate: (wins + ties / 2) / judgements; None without any.
    """

    category: str
    mode: str
    baseline: str
    turn: int | None
    judgements: int
    same: int
    wins: int
    ties: int
    losses: int
    unrated: int
    missing: int
    win_rate: float | None


def rate(gradings: Sequence[Grading], judgements: Judgements) -> list[Score]:
    """Scores per category, in the gradings' order, and overall; per turn, and all turns together."""
    return _by_group(gradings, lambda category, turn, group: _score(category, turn, group, judgements))


def compare(matches: Sequence[Match], judgements: Judgements) -> list[PairScore]:
    """Outcomes per category, in the matches' order, and overall; per turn, and all turns together."""
    return _by_group(matches, lambda category, turn, group: _pair_score(category, turn, group, judgements))


RowT = TypeVar("RowT")


def _by_group(judged: Sequence[JudgedT], summarize: Callable[[str, int | None, Sequence[JudgedT]], RowT]) -> list[RowT]:
    categories = [*dict.fromkeys(item.question.category for item in judged), OVERALL]
    turns = [*sorted({item.turn for item in judged}), None]
    rows = []
    for category in categories:
        for mode in dict.fromkeys(item.mode for item in judged):
            for turn in turns:
                group = [
                    item
                    for item in judged
                    if item.mode == mode and category in (item.question.category, OVERALL) and turn in (item.turn, None)
                ]
                if group:
                    rows.append(summarize(category, turn, group))
    return rows


def _score(category: str, turn: int | None, gradings: Sequence[Grading], judgements: Judgements) -> Score:
    texts = [judgements[item.inquiry.digest].text for item in gradings if item.inquiry.digest in judgements]
    found = [rating_of(text) for text in texts]
    ratings = [rating for rating in found if rating is not None]
    return Score(
        category=category,
        mode=gradings[0].mode,
        turn=turn,
        judgements=len(ratings),
        unrated=len(texts) - len(ratings),
        missing=len(gradings) - len(texts),
        score=fmean(ratings) if ratings else None,
    )


def _pair_score(category: str, turn: int | None, matches: Sequence[Match], judgements: Judgements) -> PairScore:
    complete = [match for match in matches if all(inquiry.digest in judgements for inquiry in match.inquiries)]
    found = Counter(outcome(match, judgements) for match in complete)
    wins, ties, losses = (found[which] for which in Outcome)
    judged = wins + ties + losses
    return PairScore(
        category=category,
        mode=matches[0].mode,
        baseline=matches[0].baseline,
        turn=turn,
        judgements=judged,
        same=sum(not match.inquiries for match in complete),
        wins=wins,
        ties=ties,
        losses=losses,
        unrated=found[None],
        missing=len(matches) - len(complete),
        win_rate=(wins + ties / 2) / judged if judged else None,
    )


def outcome(match: Match, judgements: Judgements) -> Outcome | None:
    """The outcome of a comparison that was judged; None where one of the orders has no verdict."""
    if not match.inquiries:
        return Outcome.TIE
    first, second = (verdict_of(judgements[inquiry.digest].text) for inquiry in match.inquiries)
    return outcome_of(first, second)


def unread(rows: Iterable[Score | PairScore]) -> int:
    """Answers, or comparisons, whose judgement says nothing, over all categories and turns."""
    return sum(row.unrated for row in rows if row.category == OVERALL and row.turn is None)
