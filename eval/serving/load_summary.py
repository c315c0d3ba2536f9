"""Throughput and latency of each mode under each load, from the records of loads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import fmean, median

import numpy as np

from medusa_apar.modes import Mode

from ..measurement.tables import Column, Section
from .arrivals import Arrivals
from .load_run import MODES, LoadRecord

Rounds = Sequence[LoadRecord]
"""Of one load in one mode; at least one."""


@dataclass(frozen=True, slots=True)
class ModeLoads:
    """Rounds of one load.

    Attributes:
        own: in one mode.
        plain: in mode `ar`; empty where that was not measured.
    """

    own: Rounds
    plain: Rounds

    def against_ar(self, figure: Callable[[Rounds], float]) -> float | None:
        """A figure by that of mode `ar`."""
        return figure(self.own) / figure(self.plain) if self.plain else None

    def all(self, name: str) -> list[float]:
        """A field of all rounds that is a list."""
        return [each for record in self.own for each in getattr(record, name)]


def _tokens_per_second(rounds: Rounds) -> float:
    return sum(sum(record.tokens) for record in rounds) / sum(record.seconds for record in rounds)


def _latency(rounds: Rounds) -> float:
    return fmean(each for record in rounds for each in record.latencies)


def _ms_per_token(rounds: Rounds) -> float:
    answers = (pair for record in rounds for pair in zip(record.latencies, record.tokens, strict=True))
    return 1000 * fmean(seconds / max(1, tokens) for seconds, tokens in answers)


def _prefix_hits(loads: ModeLoads) -> float | None:
    rates = [record.prefix_hit_rate for record in loads.own if record.prefix_hit_rate is not None]
    return fmean(rates) if rates else None


def _usage(loads: ModeLoads) -> tuple[float, float] | None:
    usage = loads.all("kv_usage")
    return (fmean(usage), max(usage)) if usage else None


def _memory(loads: ModeLoads) -> tuple[float, float]:
    series = loads.own[0].memory_mib, loads.own[-1].memory_mib[::-1]
    begin, end = (fmean(each[: ceil(len(each) / 10)]) for each in series)
    return begin, end


def _several(form: str) -> Callable[[Iterable[float]], str]:
    return lambda figures: " ".join(format(figure, form) for figure in figures)


COLUMNS: tuple[Column[ModeLoads], ...] = (
    Column("answers", lambda loads: len(loads.all("latencies")), on_terminal=False),
    Column("tokens", lambda loads: fmean(loads.all("tokens")), ".0f", "of an answer, mean", on_terminal=False),
    Column("threads", lambda loads: fmean(loads.all("threads")), ".1f", "of an answer, mean", on_terminal=False),
    Column("tokens/s", lambda loads: _tokens_per_second(loads.own), ".0f", "visible tokens of all answers together"),
    Column("tokens/s x ar", lambda loads: loads.against_ar(_tokens_per_second), ".2f",
           "against ar under the same load with the same blocks, as the other columns x ar"),
    Column("s/answer", lambda loads: _latency(loads.own), ".2f", "mean latency"),
    Column("s/answer x ar", lambda loads: loads.against_ar(_latency), ".2f", on_terminal=False),
    Column("percentiles", lambda loads: np.percentile(loads.all("latencies"), (50, 90, 99)).tolist(), _several(".2f"),
           "50th, 90th and 99th of the latency", on_terminal=False),
    Column("ms/token", lambda loads: _ms_per_token(loads.own), ".2f",
           "mean latency by the tokens of the answer, which the modes do not write alike"),
    Column("ms/token x ar", lambda loads: loads.against_ar(_ms_per_token), ".2f"),
    Column("first", lambda loads: median(loads.all("first_tokens")), ".2f",
           "median seconds until there is something to read", on_terminal=False),
    Column("KV", _usage, _several(".0%"), "share of the blocks in use, mean and peak"),
    Column("hits", _prefix_hits, ".0%", "of the tokens of all contexts, those in the prefix cache", on_terminal=False),
    Column("MiB", _memory, _several(".0f"),
           "memory of engine and orchestrator, in the first and in the last tenth of the time", on_terminal=False),
    Column("errors", lambda loads: sum(len(record.errors) for record in loads.own)),
)  # fmt: skip


def summarize(records: Iterable[LoadRecord]) -> list[Section[ModeLoads]]:
    """A table per KV memory, the smallest first: figures by arrivals in rising order, `ar` first."""
    records = list(records)
    sections = []
    for blocks in sorted({record.kv_blocks for record in records}):
        groups = {}
        in_blocks = [record for record in records if record.kv_blocks == blocks]
        for arrivals in sorted({Arrivals.parse(record.arrivals) for record in in_blocks}):
            same = [record for record in in_blocks if record.arrivals == str(arrivals)]
            plain = [record for record in same if record.mode == Mode.AR]
            for mode in MODES:
                if own := [record for record in same if record.mode == mode]:
                    groups[str(arrivals), mode] = ModeLoads(own, plain)
        sections.append(Section(f"{blocks} blocks", ("arrivals", "mode"), COLUMNS, groups))
    return sections
