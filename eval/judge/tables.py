"""The judge's scores as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeVar

from ..measurement.tables import Section, counts, figure
from .scores import PairScore, Score

SCORES_LEGEND = (
    "judged: ratings from 1 to 10, + judgements without a rating, + answers without a judgement; "
    "turns, all: mean rating"
)
PAIRS_LEGEND = (
    "judged: comparisons, + those without a verdict in both orders, + those without a judgement; same: of an answer "
    "with the same one, a tie without asking; wins, losses: only where both orders agree; "
    "turns, all: (wins + ties / 2) / comparisons"
)

RowT = TypeVar("RowT", Score, PairScore)


def scores_section(rows: Sequence[Score]) -> Section:
    """The judge's ratings, a column per turn."""
    turns = _turns(rows)
    cells = [
        (category, [mode, counts(all_.judgements, all_.unrated, all_.missing), *shown])
        for (category, mode), all_, shown in _pivoted(rows, turns, lambda row: figure(row.score, ".2f"))
    ]
    return Section("Ratings", ("mode", "judged", *_names(turns)), cells, SCORES_LEGEND)


def pairs_section(rows: Sequence[PairScore]) -> Section:
    """The judge's comparisons, a column per turn."""
    turns = _turns(rows)
    cells = [
        (
            category,
            [
                mode,
                counts(all_.judgements, all_.unrated, all_.missing),
                *map(str, (all_.same, all_.wins, all_.ties, all_.losses)),
                *shown,
            ],
        )
        for (category, mode), all_, shown in _pivoted(rows, turns, lambda row: figure(row.win_rate, ".0%"))
    ]
    columns = ("mode", "judged", "same", "wins", "ties", "losses", *_names(turns))
    return Section(f"Against {rows[0].baseline}", columns, cells, PAIRS_LEGEND)


def _pivoted(
    rows: Sequence[RowT], turns: Sequence[int], figure: Callable[[RowT], str]
) -> list[tuple[tuple[str, str], RowT, list[str]]]:
    """Per category and mode the row of all turns, and a figure per turn and of all turns together."""
    result = []
    for key, group in groupby(rows, key=lambda row: (row.category, row.mode)):
        by_turn = {row.turn: row for row in group}
        shown = [figure(by_turn[turn]) if turn in by_turn else "-" for turn in (*turns, None)]
        result.append((key, by_turn[None], shown))
    return result


def _turns(rows: Sequence[Score] | Sequence[PairScore]) -> list[int]:
    return sorted({row.turn for row in rows if row.turn is not None})


def _names(turns: Sequence[int]) -> tuple[str, ...]:
    return (*(f"turn {turn}" for turn in turns), "all")
