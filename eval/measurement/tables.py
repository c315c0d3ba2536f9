"""Cells of tables, and tables as markdown."""

from __future__ import annotations

from dataclasses import dataclass
from io import StringIO
from itertools import groupby

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .spread import Spread


def cell(text: str) -> str:
    """A text of the user's as it stands in a cell of a markdown table."""
    return escape(text.replace("|", r"\|"))


def as_markdown(table: Table) -> str:
    """The text of a table with the box `MARKDOWN`."""
    text = StringIO()
    Console(file=text, width=240).print(table)
    return "\n".join(line.strip() for line in text.getvalue().splitlines() if line.strip()) + "\n"


def figure(value: float | None, form: str) -> str:
    """A figure in a format, or a dash where it is not known."""
    return "-" if value is None else format(value, form)


def spread_figures(spread: Spread) -> str:
    """A ratio's median and its quartiles."""
    return f"{spread.median:.2f} ({spread.lower_quartile:.1f}-{spread.upper_quartile:.1f})"


def interval_figures(spread: Spread | None) -> str:
    """The confidence interval of a ratio's median."""
    if spread is None or spread.interval is None:
        return "-"
    low, high = spread.interval
    return f"{low:.2f}-{high:.2f}"


def counts(counted: int, *others: int) -> str:
    """A count and what is left out of it; `+` and the others only where there are any."""
    return "+".join(map(str, (counted, *others))) if any(others) else str(counted)


@dataclass(frozen=True, slots=True)
class Section:
    """A table before it is drawn.

    Attributes:
        title: its name.
        columns: headings after that of the category; the first is `mode`.
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
