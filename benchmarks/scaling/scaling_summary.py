"""How fast each mode is along each axis, from the records of points."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median

from medusa_apar.eval.batch.batch_summary import ModeBatches
from medusa_apar.eval.measurement.spread import Spread
from medusa_apar.eval.measurement.tables import Column, Section, spread_figures
from medusa_apar.modes import Mode

from .points import Point, Sweeps, points_along
from .scaling_run import ScalingKey, ScalingRecord

PointBatches = ModeBatches[ScalingRecord]


def _by(figure: str, unit: str, times: int = 1) -> Callable[[PointBatches], float]:
    """The sum of a field over the rounds, by that of another one."""

    def total(batches: PointBatches, field: str) -> float:
        return sum(float(getattr(record, field)) for record in batches.own)

    return lambda batches: times * total(batches, figure) / total(batches, unit)


COLUMNS: tuple[Column[PointBatches], ...] = (
    Column("rounds", lambda batches: len(batches.own)),
    Column("tokens/s", lambda batches: Spread.of(batches.speeds), lambda spread: f"{spread.median:.1f}",
           "of a whole batch, prefill included, median over rounds"),
    Column("ms/token", lambda batches: 1000 / median(batches.speeds), ".2f", "its inverse"),
    Column("nodes/token", _by("nodes", "answer_tokens"), ".2f", "forward-pass nodes computed for a visible token"),
    Column("tokens/step", _by("answer_tokens", "steps"), ".2f", "of all rows together"),
    Column("ms/step", _by("seconds", "steps", times=1000), ".1f"),
    Column("heads", lambda batches: fmean(batch.head_seconds / batch.seconds for batch in batches.own), ".0%",
           "share of the time in the heads"),
    Column("speed-up", lambda batches: Spread.of(batches.speed_ups), spread_figures,
           "of tokens/s against mode ar in the same round, median (quartiles)"),
)  # fmt: skip


def summarize(
    records: Mapping[ScalingKey, ScalingRecord], base: Point, sweeps: Sweeps, modes: Sequence[str]
) -> list[Section[PointBatches]]:
    """A table per axis: figures by value, with the modes in the given order."""
    found = defaultdict(list)
    for record in records.values():
        found[record.point, record.mode].append(record)
    sections = []
    for axis, values in sweeps.items():
        groups = {
            (value, mode): PointBatches(own, {record.round: record for record in found[point, Mode.AR]})
            for value, point in zip(values, points_along(axis, base, sweeps), strict=True)
            for mode in modes
            if (own := found[point, mode])
        }
        sections.append(Section(axis.capitalize(), (str(axis), "mode"), COLUMNS, groups))
    return sections
