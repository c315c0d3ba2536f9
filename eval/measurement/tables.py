"""Tables of figures, a column per figure, for the terminal, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from typing import Any, Generic, TypeVar

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .spread import Spread

GroupT = TypeVar("GroupT")
OVERALL = "overall"
"""Name of the row about all categories."""


def as_markdown(table: Table) -> str:
    """The text of a table with the box `MARKDOWN`."""
    text = StringIO()
    Console(file=text, width=300).print(table)
    return "\n".join(line.strip() for line in text.getvalue().splitlines() if line.strip()) + "\n"


def spread_figures(spread: Spread) -> str:
    """A ratio's median and its quartiles."""
    return f"{spread.median:.2f} ({spread.lower_quartile:.1f}-{spread.upper_quartile:.1f})"


def interval_figures(spread: Spread | None) -> str:
    """The confidence interval of a ratio's median."""
    if spread is None or spread.interval is None:
        return "-"
    low, high = spread.interval
    return f"{low:.2f}-{high:.2f}"


def counts(numbers: Sequence[int]) -> str:
    """A count and what is left out of it; `+` and the others only where there are any."""
    return "+".join(map(str, numbers)) if any(numbers[1:]) else str(numbers[0])


@dataclass(frozen=True)
class Column(Generic[GroupT]):
    """One figure of the records that a row is about.

    Attributes:
        name: heading, and key in `summary.json`.
        figure: of a row's records; None where they do not tell it.
        form: format specification of the figure, or a function that writes it.
        meaning: for the legend; empty where the name says it.
        on_terminal: whether it stands there too, where there is little room.
    """

    name: str
    figure: Callable[[GroupT], Any]
    form: str | Callable[[Any], str] = ""
    meaning: str = ""
    on_terminal: bool = True

    def text(self, figure: Any) -> str:
        """A figure as it stands in a cell; a dash for None."""
        if figure is None:
            return "-"
        return self.form(figure) if callable(self.form) else format(figure, self.form)


@dataclass(frozen=True)
class Section(Generic[GroupT]):
    """A table with its title and its legend.

    Attributes:
        title: its name.
        about: headings of the columns that name a row, e.g. category and mode.
        columns: its figures.
        groups: the records of each row, by what names it.
        note: what the legend says beside the meanings of the columns.
    """

    title: str
    about: tuple[str, ...]
    columns: Sequence[Column[GroupT]]
    groups: Mapping[tuple[Any, ...], GroupT]
    note: str = ""

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """What names each row, and its figures, by heading."""
        return [
            dict(zip(self.about, key, strict=True)) | {column.name: column.figure(group) for column in self.columns}
            for key, group in self.groups.items()
        ]

    @property
    def headings(self) -> list[str]:
        """Of all columns."""
        return [*self.about, *(column.name for column in self.columns)]

    @property
    def cells(self) -> list[list[str]]:
        """The texts of all rows."""
        return [
            [*(str(row[name]) for name in self.about), *(column.text(row[column.name]) for column in self.columns)]
            for row in self.rows
        ]

    @property
    def legend(self) -> str:
        """What the columns mean."""
        meanings = [f"{column.name}: {column.meaning}" for column in self.columns if column.meaning]
        return "; ".join(meanings + [self.note] * bool(self.note)) + "."

    def terminal(self) -> Table:
        """Narrow enough for 80 columns; rows that differ in the last name alone are grouped under a heading."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0 if len(self.about) > 1 else (0, 1, 0, 0))
        shown = [column for column in self.columns if column.on_terminal]
        for name in (self.about[-1], *(column.name for column in shown)):
            heading = name.replace("/", "\n/").replace(" ", "\n")
            table.add_column(heading, justify="left" if name == self.about[-1] else "right")
        above: tuple[Any, ...] = ()
        for row in self.rows:
            if above != (above := tuple(row[name] for name in self.about[:-1])):
                table.add_section()
                table.add_row(escape(", ".join(map(str, above))), style="bold")
            table.add_row(escape(str(row[self.about[-1]])), *(column.text(row[column.name]) for column in shown))
        return table

    def markdown(self) -> str:
        """The table, a line per row."""
        table = Table(box=box.MARKDOWN)
        for name in self.headings:
            table.add_column(name, justify="left" if name in self.about else "right")
        for cells in self.cells:
            table.add_row(*(escape(text.replace("|", r"\|")) for text in cells))
        return as_markdown(table)
