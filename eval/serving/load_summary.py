"""From records of loads to figures per KV memory, arrivals and mode."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.table import Table

from medusa_apar.modes import Mode

from ..measurement.tables import as_markdown, figure
from .load_run import MODES, LoadRecord

LEGEND = (
    "tokens/s: visible tokens of all answers together; s/answer: latency, median, 90th and 99th percentile; ms/token: "
    "mean latency by the tokens of the answer, which the modes do not write alike; first: median seconds until there "
    "is something to read; KV: share of the blocks in use, mean and peak; hits: of the tokens of all contexts, those "
    "in the prefix cache; MiB: memory of engine and orchestrator, in the first and in the last tenth of the "
    "time; x ar: against ar under the same load with the same blocks; of latency the means "
    "are compared"
)
COLUMNS = (
    "blocks", "arrivals", "mode", "answers", "tokens", "threads", "tokens/s", "x ar", "s/answer", "x ar", "ms/token",
    "x ar", "first", "KV", "hits", "MiB", "errors",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRow:
    """Figures of one mode under one load, over all rounds.

    Attributes:
        kv_blocks, arrivals, mode: what was measured.
        answers: complete ones.
        tokens: of an answer, mean.
        threads: of an answer, mean.
        tokens_per_second: of all answers together.
        latency_mean, latency_p50, latency_p90, latency_p99: seconds.
        seconds_per_token: mean latency divided by the answer's tokens.
        first_token: median seconds.
        kv_mean, kv_peak: share of the blocks; None where it was not seen.
        prefix_hit_rate: mean over rounds; None where it was not seen.
        errors: requests that failed.
        memory_begin, memory_end: MiB of engine and orchestrator; means over the first and the last tenth of the time.
        throughput_ratio, latency_ratio, per_token_ratio: against `ar`; None without it.
    """

    kv_blocks: int
    arrivals: str
    mode: str
    answers: int
    tokens: float
    threads: float
    tokens_per_second: float
    latency_mean: float
    latency_p50: float
    latency_p90: float
    latency_p99: float
    seconds_per_token: float
    first_token: float
    kv_mean: float | None
    kv_peak: float | None
    prefix_hit_rate: float | None
    errors: int
    memory_begin: float
    memory_end: float
    throughput_ratio: float | None = None
    latency_ratio: float | None = None
    per_token_ratio: float | None = None


def summarize(records: Iterable[LoadRecord]) -> list[LoadRow]:
    """Figures in the order of the records' loads, `ar` first."""
    records = list(records)
    loads = dict.fromkeys((record.kv_blocks, record.arrivals) for record in records)
    rows = []
    for blocks, arrivals in sorted(
        loads, key=lambda load: (load[0], load[1].split(":")[0], float(load[1].split(":")[1]))
    ):
        of_mode = {
            mode: [each for each in records if (each.kv_blocks, each.arrivals, each.mode) == (blocks, arrivals, mode)]
            for mode in MODES
        }
        plain = _row(of_mode[Mode.AR], None) if of_mode[Mode.AR] else None
        rows += [_row(own, plain) for own in of_mode.values() if own]
    return rows


def _row(own: Sequence[LoadRecord], plain: LoadRow | None) -> LoadRow:
    latencies = np.concatenate([record.latencies for record in own])
    tokens = np.concatenate([record.tokens for record in own])
    usage = np.concatenate([record.kv_usage for record in own])
    hits = [record.prefix_hit_rate for record in own if record.prefix_hit_rate is not None]
    p50, p90, p99 = np.percentile(latencies, (50, 90, 99)).tolist()
    per_second = float(tokens.sum() / sum(record.seconds for record in own))
    per_token = float(np.mean(latencies / np.maximum(tokens, 1)))
    mean = float(latencies.mean())
    return LoadRow(
        kv_blocks=own[0].kv_blocks,
        arrivals=own[0].arrivals,
        mode=own[0].mode,
        answers=len(latencies),
        tokens=float(tokens.mean()),
        threads=float(np.mean(np.concatenate([record.threads for record in own]))),
        tokens_per_second=per_second,
        latency_mean=mean,
        latency_p50=p50,
        latency_p90=p90,
        latency_p99=p99,
        seconds_per_token=per_token,
        first_token=float(np.median(np.concatenate([record.first_tokens for record in own]))),
        kv_mean=float(usage.mean()) if len(usage) else None,
        kv_peak=float(usage.max()) if len(usage) else None,
        prefix_hit_rate=sum(hits) / len(hits) if hits else None,
        errors=sum(len(record.errors) for record in own),
        memory_begin=_mean_of_tenth(own[0].memory_mib),
        memory_end=_mean_of_tenth(own[-1].memory_mib[::-1]),
        throughput_ratio=per_second / plain.tokens_per_second if plain else None,
        latency_ratio=mean / plain.latency_mean if plain else None,
        per_token_ratio=per_token / plain.seconds_per_token if plain else None,
    )


def _mean_of_tenth(values: Sequence[float]) -> float:
    return float(np.mean(values[: -(-len(values) // 10)]))


def markdown(rows: Sequence[LoadRow]) -> str:
    """A markdown table, one line per load and mode."""
    return as_markdown(_table(rows, box.MARKDOWN))


def terminal_table(rows: Sequence[LoadRow]) -> Table:
    """The same for the terminal."""
    return _table(rows, box.SIMPLE_HEAD)


def _table(rows: Sequence[LoadRow], lines: box.Box) -> Table:
    table = Table(box=lines, pad_edge=False, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("arrivals", "mode") else "right")
    for row in rows:
        table.add_row(
            str(row.kv_blocks),
            row.arrivals,
            row.mode,
            str(row.answers),
            f"{row.tokens:.0f}",
            f"{row.threads:.1f}",
            f"{row.tokens_per_second:.0f}",
            figure(row.throughput_ratio, ".2f"),
            f"{row.latency_p50:.2f} {row.latency_p90:.2f} {row.latency_p99:.2f}",
            figure(row.latency_ratio, ".2f"),
            f"{1000 * row.seconds_per_token:.2f}",
            figure(row.per_token_ratio, ".2f"),
            f"{row.first_token:.2f}",
            "-" if row.kv_mean is None or row.kv_peak is None else f"{row.kv_mean:.0%} {row.kv_peak:.0%}",
            figure(row.prefix_hit_rate, ".0%"),
            f"{row.memory_begin:.0f} {row.memory_end:.0f}",
            str(row.errors),
        )
    return table
