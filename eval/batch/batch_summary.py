"""From records of batches to figures per batch size and mode."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich import box
from rich.table import Table

from medusa_apar.modes import Mode

from ..measurement.spread import Spread
from ..measurement.tables import as_markdown, spread_figures
from .batch_run import BatchRecord

LEGEND = (
    "tokens/s: visible tokens of a batch, prefill included, median over rounds; tokens/step: of "
    "all rows together; speed-up: of tokens/s against mode ar in the same round with the same prompts, median "
    "(quartiles); lowest: of these speed-ups"
)
COLUMNS = ("batch size", "mode", "rounds", "tokens/s", "tokens/step", "speed-up", "lowest")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRow:
    """Figures of one mode at one batch size.

    Attributes:
        batch_size: prompts decoded together.
        mode: the mode.
        rounds: measured batches, which the other figures are about.
        tokens_per_second: of the whole batch.
        tokens_per_step: mean over rounds.
        speed_up: of tokens/s against mode `ar` in the same round; None without `ar`.
        lowest_speed_up: of all rounds; None without `ar`.
    """

    batch_size: int
    mode: str
    rounds: int
    tokens_per_second: Spread
    tokens_per_step: float
    speed_up: Spread | None
    lowest_speed_up: float | None


def summarize(records: Iterable[BatchRecord], modes: Sequence[str]) -> list[BatchRow]:
    """Figures per batch size, in rising order, with the modes in the given order."""
    by_key = {record.key: record for record in records}
    sizes = sorted({record.batch_size for record in by_key.values()})
    rows = (_summarize(by_key, size, mode) for size in sizes for mode in modes)
    return [row for row in rows if row is not None]


def _summarize(records: dict[tuple[int, int, str], BatchRecord], size: int, mode: str) -> BatchRow | None:
    own = [record for record in records.values() if (record.batch_size, record.mode) == (size, mode)]
    speeds = Spread.of([record.tokens_per_second for record in own])
    if speeds is None:
        return None
    pairs = [(record, records.get((record.round, size, Mode.AR))) for record in own]
    speed_ups = [record.tokens_per_second / ar.tokens_per_second for record, ar in pairs if ar is not None]
    return BatchRow(
        batch_size=size,
        mode=mode,
        rounds=len(own),
        tokens_per_second=speeds,
        tokens_per_step=fmean(record.answer_tokens / max(1, record.steps) for record in own),
        speed_up=Spread.of(speed_ups),
        lowest_speed_up=min(speed_ups, default=None),
    )


def terminal_table(rows: Sequence[BatchRow]) -> Table:
    """A section per batch size, narrow enough for 80 columns."""
    table = _empty(Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)))
    for place, row in enumerate(rows):
        if place and rows[place - 1].batch_size != row.batch_size:
            table.add_section()
        table.add_row(*_figures(row))
    return table


def markdown(rows: Sequence[BatchRow]) -> str:
    """A markdown table, one line per batch size and mode."""
    table = _empty(Table(box=box.MARKDOWN))
    for row in rows:
        table.add_row(*_figures(row))
    return as_markdown(table)


def _empty(table: Table) -> Table:
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "mode" else "right")
    return table


def _figures(row: BatchRow) -> list[str]:
    return [
        str(row.batch_size),
        row.mode,
        str(row.rounds),
        f"{row.tokens_per_second.median:.0f}",
        f"{row.tokens_per_step:.2f}",
        "-" if row.speed_up is None else spread_figures(row.speed_up),
        "-" if row.lowest_speed_up is None else f"{row.lowest_speed_up:.2f}",
    ]
