"""The summary as a table, on the terminal and in markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from medusa_apar.train.own_text.repetition import LOOPING_BELOW

from ..measurement.tables import as_markdown, cell, figure, interval_figures, spread_figures
from .summary import SummaryRow

COLUMNS = (
    "category",
    "mode",
    "turns",
    "tokens/s",
    "tokens/step",
    "steps",
    "forked",
    "slots/ar",
    "x gen",
    "speed-up",
    "loops",
)
WRITTEN = ("95 %", "median/step", "forks", "outside", "ms/step", "s/turn")
"""Further columns of the written table."""
LEGEND = (
    "turns: answered + skipped; tokens: visible ones of the answers; steps: mean per turn; forked: share of answers "
    "with a fork; slots/ar: peak KV slots against what plain decoding of the same answers holds; x gen: tokens/s "
    "against transformers' generate, median over questions; speed-up: of tokens/s against mode ar, median (quartiles) "
    f"over questions; loops: share of answers with distinct 4-grams below {LOOPING_BELOW}. In the written table also "
    "the 95 % confidence interval of the speed-up's median, by bootstrap; median/step: the median of tokens per step "
    "over turns; forks: mean per turn; outside: share of the time outside the backbone; and the wall time of a step "
    "and of a turn: modes that may not fork write other answers to the same questions, mostly shorter ones"
)


def terminal_table(rows: Sequence[SummaryRow]) -> Table:
    """A section per category, narrow enough for 80 columns."""
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    for number, name in enumerate(COLUMNS[1:]):
        result.add_column(name.replace("/", "\n/").replace(" ", "\n"), justify="right" if number else "left")
    category = None
    for row in rows:
        if row.category != category:
            result.add_section()
            result.add_row(escape(row.category), style="bold")
            category = row.category
        result.add_row(*_figures(row))
    return result


def markdown(rows: Sequence[SummaryRow]) -> str:
    """A markdown table, one line per category and mode."""
    table = Table(box=box.MARKDOWN)
    for number, name in enumerate((*COLUMNS, *WRITTEN)):
        table.add_column(name, justify="left" if number < 2 else "right")
    for row in rows:
        table.add_row(
            cell(row.category), *_figures(row), interval_figures(row.speed_up), f"{row.median_tokens_per_step:.2f}",
            f"{row.forks:.1f}", figure(row.outside_backbone, ".0%"), _step_time(row), _turn_time(row),
        )  # fmt: skip
    return as_markdown(table)


def _step_time(row: SummaryRow) -> str:
    return f"{1000 * row.tokens_per_step / row.tokens_per_second:.1f}" if row.turns else "-"


def _turn_time(row: SummaryRow) -> str:
    return f"{row.seconds:.2f}" if row.turns else "-"


def _figures(row: SummaryRow) -> list[str]:
    turns = f"{row.turns}+{row.skipped}" if row.skipped else str(row.turns)
    if not row.turns:
        return [row.mode, turns, *["-"] * (len(COLUMNS) - 3)]
    return [
        row.mode,
        turns,
        f"{row.tokens_per_second:.1f}",
        f"{row.tokens_per_step:.2f}",
        f"{row.steps:.0f}",
        f"{row.forking:.0%}",
        figure(row.slots_against_ar, ".2f"),
        figure(None if row.against_generate is None else row.against_generate.median, ".2f"),
        "-" if row.speed_up is None else spread_figures(row.speed_up),
        f"{row.looping:.0%}",
    ]
