"""What threads cost and save: the second table of a measurement of speed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from medusa_apar.output import DecodingStats

from ..measurement.tables import Column, Section
from .summary import ModeTurns
from .turns import TurnRecord


def _mean_over_stepped(figure: Callable[[DecodingStats], float | None]) -> Callable[[ModeTurns], float | None]:
    """A figure's mean over the answers that took a step, for slots and pairs are counted step by step."""

    def mean(turns: ModeTurns) -> float | None:
        figures = [figure(record.stats) for record in turns.answered if record.stats.peak_slots]
        known = [each for each in figures if each is not None]
        return fmean(known) if known else None

    return mean


def _host_against_backbone(turns: ModeTurns) -> float | None:
    backbone = turns.total(lambda record: record.stats.backbone_seconds)
    heads = turns.total(lambda record: record.stats.head_seconds)
    return (turns.seconds - heads) / backbone - 1 if backbone else None


COLUMNS: tuple[Column[ModeTurns], ...] = (
    Column("turns", lambda turns: len(turns.answered)),
    Column("peak", _mean_over_stepped(lambda stats: stats.peak_slots / stats.ar_slots), ".2f",
           "KV slots at the peak against what plain decoding of the same answer holds at its end, mean over answers"),
    Column("mean", _mean_over_stepped(lambda stats: stats.mean_slots / stats.ar_slots), ".2f",
           "the same of the slots averaged over steps"),
    Column("half", _mean_over_stepped(lambda stats: stats.peak_slots / stats.ar_slots <= 0.5), ".0%",
           "share of answers whose peak is at most half of that"),
    Column("pairs", _mean_over_stepped(lambda stats: stats.attended_pairs / stats.ar_pairs if stats.ar_pairs else None),
           ".2f", "pairs of a node and a slot that it attends to, against plain decoding of the same answer"),
    Column("host", _host_against_backbone, ".0%",
           "time outside backbone and heads against the time in the backbone"),
    Column("saved", lambda turns: turns.mean(lambda record: record.stats.saved_thread_steps), ".1f",
           "steps of single threads per answer, saved by forks inside a step and by [Child] beside its fork"),
)  # fmt: skip


def summarize_threads(records: Iterable[TurnRecord], modes: Sequence[str]) -> Section[ModeTurns]:
    """A row for each of the modes, whose answers may fork, in the given order."""
    records = list(records)
    return Section("Threads", ("mode",), COLUMNS, {(mode,): ModeTurns(mode, records) for mode in modes})
