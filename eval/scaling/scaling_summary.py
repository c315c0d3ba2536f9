"""From records of points to figures per axis, value and mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich import box
from rich.table import Table

from medusa_apar.modes import Mode

from ..measurement.spread import Spread
from ..measurement.tables import as_markdown, spread_figures
from .points import Axis, Point, Sweeps, points_along
from .scaling_run import ScalingKey, ScalingRecord

LEGEND = (
    "tokens/s: of a whole batch, prefill included, median over rounds; ms/token: its inverse; "
    "nodes/token: forward-pass nodes computed for a visible token; tokens/step: of all rows "
    "together; heads: share of the time in the heads; speed-up: of tokens/s against mode ar in the same round, median "
    "(quartiles)"
)
COLUMNS = ("mode", "tokens/s", "ms/token", "nodes/token", "tokens/step", "ms/step", "heads", "speed-up")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRow:
    """Figures of one mode at one point of an axis.

    Attributes:
        axis: what grows.
        value: how far.
        mode: the mode.
        rounds: measured batches, which the other figures are about.
        tokens_per_second: of the whole batch.
        nodes_per_token: forward-pass nodes after prefill / visible tokens.
        tokens_per_step: visible tokens / steps.
        seconds_per_step: mean.
        head_share: of the wall time.
        speed_up: of tokens/s against mode `ar` in the same round; None without `ar`.
    """

    axis: Axis
    value: int | str
    mode: str
    rounds: int
    tokens_per_second: Spread
    nodes_per_token: float
    tokens_per_step: float
    seconds_per_step: float
    head_share: float
    speed_up: Spread | None


def summarize(
    records: Mapping[ScalingKey, ScalingRecord], base: Point, sweeps: Sweeps, modes: Sequence[str]
) -> list[ScalingRow]:
    """Figures per axis and value, with the modes in the given order."""
    rows = (
        _summarize(records, axis, value, point, mode)
        for axis in sweeps
        for value, point in zip(sweeps[axis], points_along(axis, base, sweeps), strict=True)
        for mode in modes
    )
    return [row for row in rows if row is not None]


def _summarize(
    records: Mapping[ScalingKey, ScalingRecord], axis: Axis, value: int | str, point: Point, mode: str
) -> ScalingRow | None:
    own = [record for record in records.values() if (record.point, record.mode) == (point, mode)]
    speeds = Spread.of([record.tokens_per_second for record in own])
    if speeds is None:
        return None
    pairs = [(record, records.get((point, record.round, Mode.AR))) for record in own]
    tokens, steps = sum(record.answer_tokens for record in own), sum(record.steps for record in own)
    return ScalingRow(
        axis=axis,
        value=value,
        mode=mode,
        rounds=len(own),
        tokens_per_second=speeds,
        nodes_per_token=sum(record.nodes for record in own) / tokens,
        tokens_per_step=tokens / steps,
        seconds_per_step=sum(record.seconds for record in own) / steps,
        head_share=fmean(record.head_seconds / record.seconds for record in own),
        speed_up=Spread.of([record.tokens_per_second / ar.tokens_per_second for record, ar in pairs if ar is not None]),
    )


def terminal_table(rows: Sequence[ScalingRow], axis: Axis) -> Table:
    """One axis, a section per value, narrow enough for 80 columns."""
    table = _table(box.SIMPLE_HEAD, axis)
    own = [row for row in rows if row.axis == axis]
    for place, row in enumerate(own):
        if place and own[place - 1].value != row.value:
            table.add_section()
        table.add_row(str(row.value), *_figures(row))
    return table


def markdown(rows: Sequence[ScalingRow]) -> str:
    """A markdown table for every axis."""
    parts = []
    for axis in dict.fromkeys(row.axis for row in rows):
        table = _table(box.MARKDOWN, axis)
        for row in rows:
            if row.axis == axis:
                table.add_row(str(row.value), *_figures(row))
        parts.append(f"## {axis.capitalize()}\n\n{as_markdown(table)}")
    return "\n".join(parts)


def _table(lines: box.Box, axis: Axis) -> Table:
    table = Table(box=lines, pad_edge=False, padding=(0, 1, 0, 0))
    for name in (str(axis), *COLUMNS):
        table.add_column(name, justify="left" if name in ("mode", Axis.BACKBONE) else "right")
    return table


def _figures(row: ScalingRow) -> list[str]:
    return [
        row.mode,
        f"{row.tokens_per_second.median:.1f}",
        f"{1000 / row.tokens_per_second.median:.2f}",
        f"{row.nodes_per_token:.2f}",
        f"{row.tokens_per_step:.2f}",
        f"{1000 * row.seconds_per_step:.1f}",
        f"{row.head_share:.0%}",
        "-" if row.speed_up is None else spread_figures(row.speed_up),
    ]
