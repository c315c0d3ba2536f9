"""How fast each mode is at each batch size, from the records of batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Generic, TypeVar

from medusa_apar.modes import Mode

from ..measurement.spread import Spread
from ..measurement.tables import Column, Section, spread_figures
from .batch_run import BatchRecord, TimedBatch

BatchT = TypeVar("BatchT", bound=TimedBatch)


@dataclass(frozen=True)
class ModeBatches(Generic[BatchT]):
    """Batches that are compared.

    Attributes:
        own: of one mode; at least one.
        plain: of mode `ar`, by round.
    """

    own: Sequence[BatchT]
    plain: Mapping[int, BatchT]

    @property
    def speeds(self) -> list[float]:
        """Tokens/s by round."""
        return [record.tokens_per_second for record in self.own]

    @property
    def speed_ups(self) -> list[float]:
        """Of tokens/s against mode `ar` in the same round."""
        return [
            record.tokens_per_second / self.plain[record.round].tokens_per_second
            for record in self.own
            if record.round in self.plain
        ]


COLUMNS: tuple[Column[ModeBatches[BatchRecord]], ...] = (
    Column("rounds", lambda batches: len(batches.own)),
    Column("tokens/s", lambda batches: Spread.of(batches.speeds),
           lambda spread: f"{spread.median:.0f}", "visible tokens of a batch, prefill included, median over rounds"),
    Column("tokens/step", lambda batches: fmean(each.answer_tokens / max(1, each.steps) for each in batches.own), ".2f",
           "of all rows together"),
    Column("speed-up", lambda batches: Spread.of(batches.speed_ups), spread_figures,
           "of tokens/s against mode ar in the same round with the same prompts, median (quartiles)"),
    Column("lowest", lambda batches: min(batches.speed_ups, default=None), ".2f", "of these speed-ups"),
)  # fmt: skip


def summarize(records: Iterable[BatchRecord], modes: Sequence[str]) -> Section[ModeBatches[BatchRecord]]:
    """Figures per batch size, in rising order, with the modes in the given order."""
    records = list(records)
    groups = {}
    for size in sorted({record.batch_size for record in records}):
        same_size = [record for record in records if record.batch_size == size]
        plain = {record.round: record for record in same_size if record.mode == Mode.AR}
        for mode in modes:
            if own := [record for record in same_size if record.mode == mode]:
                groups[size, mode] = ModeBatches(own, plain)
    return Section("Speed by batch size", ("batch size", "mode"), COLUMNS, groups)
