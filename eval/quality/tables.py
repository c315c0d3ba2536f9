"""The figures as tables, on the terminal and in markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from rich import box
from rich.markup import escape
from rich.table import Table

from medusa_apar.train.tune.repetition import LOOPING_BELOW

from ..tables import as_markdown, cell, figure
from .measure_summary import MeasureRow
from .scores import PairScore, Score

MEASURES_LEGEND = (
    "answers: not empty + empty; tokens: mean per answer; nats/token: minus the log-likelihood of the text to the "
    "backbone, read from beginning to end, lower is likelier; 4-grams: share of distinct ones; loops: share of answers "
    f"with fewer than {LOOPING_BELOW} of them; empty: of answers with an item or a heading without anything behind it; "
    "open: of answers that end in a colon; numbers: of answers whose numbering skips or repeats; broken: of answers "
    "with any of the three"
)
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


@dataclass(frozen=True, slots=True)
class Section:
    """A table before it is drawn.

    Attributes:
        title: its name.
        columns: headings behind that of the category; the first is `mode`.
        rows: category, and a cell per column.
        legend: what the columns mean.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, list[str]]]
    legend: str

    def terminal(self) -> Table:
        """A section per category, narrow enough for 80 columns."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
        for name in self.columns:
            table.add_column(name.replace("/", "\n/"), justify="left" if name == "mode" else "right")
        for category, rows in groupby(self.rows, key=lambda row: row[0]):
            table.add_section()
            table.add_row(escape(category), style="bold")
            for _, cells in rows:
                table.add_row(*cells)
        return table

    def markdown(self) -> str:
        """Title, table and legend, one line per category and mode."""
        table = Table(box=box.MARKDOWN)
        for name in ("category", *self.columns):
            table.add_column(name, justify="left" if name in ("category", "mode") else "right")
        for category, cells in self.rows:
            table.add_row(cell(category), *cells)
        return f"## {self.title}\n\n{as_markdown(table)}\n{self.legend}.\n"


def measures_section(rows: Sequence[MeasureRow]) -> Section:
    """What was measured without a judge."""
    columns = (
        "mode", "answers", "tokens", "nats/token", "4-grams", "loops", "empty", "open", "numbers", "broken",
    )  # fmt: skip
    return Section("Without a judge", columns, [(row.category, _measures(row)) for row in rows], MEASURES_LEGEND)


def _measures(row: MeasureRow) -> list[str]:
    return [
        row.mode,
        _counts(row.answers, row.empty),
        figure(row.tokens, ".0f"),
        figure(row.nats_per_token, ".3f"),
        figure(row.distinct_4grams, ".2f"),
        figure(row.looping, ".0%"),
        figure(row.empty_details, ".0%"),
        figure(row.open_ends, ".0%"),
        figure(row.misnumbered, ".0%"),
        figure(row.broken, ".0%"),
    ]


def scores_section(rows: Sequence[Score]) -> Section:
    """The judge's ratings, a column per turn."""
    turns = _turns(rows)
    cells = [
        (category, [mode, _counts(all_.judgements, all_.unrated, all_.missing), *shown])
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
                _counts(all_.judgements, all_.unrated, all_.missing),
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


def _counts(counted: int, *others: int) -> str:
    """A count and what is left out of it; `+` and the others only where there are any."""
    return "+".join(map(str, (counted, *others))) if any(others) else str(counted)
