"""From records of turns to what threads cost and save: the second table of a measurement of speed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich import box
from rich.table import Table

from ..decoding.baselines import is_baseline
from ..decoding.variants import variant_of
from ..measurement.tables import as_markdown, figure
from .turns import TurnRecord

COLUMNS = ("mode", "turns", "peak", "mean", "half", "pairs", "host", "saved")
LEGEND = (
    "peak, mean: KV slots at the peak, and averaged over steps, against what "
    "plain decoding of the same answer holds at its end, mean over answers; half: share of answers whose peak is at "
    "most half of that; pairs: pairs of a node and a slot that it attends to, against those of plain decoding of the "
    "same answer; host: time outside backbone and heads against the time in the backbone; saved: steps of single "
    "threads per answer, saved by forks inside a step and by [Child] beside its fork"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadsRow:
    """Figures of one mode whose answers may fork, over all categories.

    Attributes:
        mode: the mode.
        answers: answered turns, which the other figures are about; None stands for what they do not tell.
        peak_slots_against_ar: peak KV slots / the slots that plain decoding of the same answer holds at its end, mean
            over answers.
        mean_slots_against_ar: the same of the slots averaged over steps.
        half_slots: share of answers whose peak is at most half of what plain decoding holds.
        pairs_against_ar: attended pairs / those of plain decoding of the same answer, mean over answers.
        host_against_backbone: wall time outside backbone and heads / wall time in the backbone.
        saved_thread_steps: `DecodingStats.saved_thread_steps`, mean over answers.
    """

    mode: str
    answers: int
    peak_slots_against_ar: float | None
    mean_slots_against_ar: float | None
    half_slots: float | None
    pairs_against_ar: float | None
    host_against_backbone: float | None
    saved_thread_steps: float | None


def summarize_threads(records: Iterable[TurnRecord], modes: Sequence[str]) -> list[ThreadsRow]:
    """A row for each of the modes whose answers may fork, in the given order."""
    records = list(records)
    return [_summarize(records, mode) for mode in modes if not is_baseline(mode) and variant_of(mode).mode.apar]


def _summarize(records: Sequence[TurnRecord], mode: str) -> ThreadsRow:
    answered = [record for record in records if record.mode == mode and record.skipped is None]
    stats = [record.stats for record in answered]
    stepped = [figures for figures in stats if figures.peak_slots]  # slots are counted step by step
    peaks = [figures.peak_slots / figures.ar_slots for figures in stepped]
    seconds = sum(record.seconds for record in answered)
    backbone_seconds = sum(figures.backbone_seconds for figures in stats)
    head_seconds = sum(figures.head_seconds for figures in stats)
    return ThreadsRow(
        mode=mode,
        answers=len(answered),
        peak_slots_against_ar=_mean(peaks),
        mean_slots_against_ar=_mean([figures.mean_slots / figures.ar_slots for figures in stepped]),
        half_slots=_mean([peak <= 0.5 for peak in peaks]),
        pairs_against_ar=_mean([figures.attended_pairs / figures.ar_pairs for figures in stepped if figures.ar_pairs]),
        host_against_backbone=(seconds - head_seconds) / backbone_seconds - 1 if backbone_seconds else None,
        saved_thread_steps=_mean([figures.saved_thread_steps for figures in stats]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def threads_table(rows: Sequence[ThreadsRow]) -> Table:
    """One line per mode, narrow enough for 80 columns."""
    return _filled(Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0), rows)


def threads_markdown(rows: Sequence[ThreadsRow]) -> str:
    """A markdown table, one line per mode."""
    return as_markdown(_filled(Table(box=box.MARKDOWN), rows))


def _filled(table: Table, rows: Sequence[ThreadsRow]) -> Table:
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "mode" else "right")
    for row in rows:
        table.add_row(
            row.mode,
            str(row.answers),
            figure(row.peak_slots_against_ar, ".2f"),
            figure(row.mean_slots_against_ar, ".2f"),
            figure(row.half_slots, ".0%"),
            figure(row.pairs_against_ar, ".2f"),
            figure(row.host_against_backbone, ".0%"),
            figure(row.saved_thread_steps, ".1f"),
        )
    return table
