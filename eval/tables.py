"""The summary as a table, on the terminal and in markdown."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

from .repetition import LOOPING_BELOW
from .summary import OVERALL, Spread, SummaryRow

COLUMNS = (
    "category",
    "mode",
    "turns",
    "tokens/s",
    "tokens /step",
    "steps",
    "forks",
    "slots /ar",
    "outside backbone",
    "speed-up (quartiles)",
    "looping",
)
LEGEND = (
    "tokens: visible tokens of the answers; steps and forks: mean per turn; slots/ar: peak KV slots against what plain "
    "decoding of the same answers holds; outside backbone: share of the time; speed-up: of tokens/s against mode ar, "
    f"median over questions; looping: share of answers with distinct 4-grams below {LOOPING_BELOW}"
)


def table(rows: Sequence[SummaryRow], *, markdown: bool = False) -> Table:
    """One line per category and mode."""
    result = Table(box=box.MARKDOWN if markdown else box.SIMPLE_HEAD, pad_edge=markdown)
    for number, name in enumerate(COLUMNS):
        result.add_column(name, justify="left" if number < 2 else "right", no_wrap=number < 2)
    previous = None
    for row in rows:
        if previous not in (None, row.category) and not markdown:
            result.add_section()
        style = "bold" if row.category == OVERALL and not markdown else None
        result.add_row(row.category if row.category != previous else "", *_figures(row), style=style)
        previous = row.category
    return result


def markdown(rows: Sequence[SummaryRow]) -> str:
    """The table as markdown text."""
    text = StringIO()
    Console(file=text, width=240).print(table(rows, markdown=True))
    return "\n".join(line.strip() for line in text.getvalue().splitlines() if line.strip()) + "\n"


def _figures(row: SummaryRow) -> list[str]:
    turns = f"{row.turns} (+{row.skipped} skipped)" if row.skipped else str(row.turns)
    if not row.turns:
        return [row.mode, turns, *["-"] * (len(COLUMNS) - 3)]
    return [
        row.mode,
        turns,
        f"{row.tokens_per_second:.1f}",
        f"{row.tokens_per_step:.2f}",
        f"{row.steps:.0f}",
        f"{row.forks:.1f}",
        f"{row.slots_against_ar:.2f}",
        "-" if row.outside_backbone is None else f"{row.outside_backbone:.0%}",
        "-" if row.speed_up is None else _spread(row.speed_up),
        f"{row.looping:.0%}",
    ]


def _spread(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.lower_quartile:.2f}-{spread.upper_quartile:.2f})"
