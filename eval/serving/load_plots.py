"""Pictures: throughput and latency by load and by KV memory, and the KV blocks in use over time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..measurement.plotting import COLOURS, save_panels
from ..measurement.tables import Section
from .arrivals import Arrivals
from .load_run import LoadRecord
from .load_summary import ModeLoads

FIGURES = ("tokens/s", "s/answer", "ms/token")
_STYLES = ("-", "--", ":", "-.")


def plot_loads(tables: Sequence[Section[ModeLoads]], path: Path, *, title: str) -> None:
    """Draw throughput, latency and latency per token: over loads of a kind, a line per mode and KV memory."""
    lines, ticks = defaultdict(list), defaultdict(set)
    for loads, row in [pair for table in tables for pair in zip(table.groups.values(), table.rows, strict=True)]:
        first = loads.own[0]
        arrivals = Arrivals.parse(first.arrivals)
        lines[arrivals.kind, first.kv_blocks, first.mode].append((arrivals.value, row))
        ticks[arrivals.kind].add(arrivals.value)
    kinds = list(ticks)
    memories = sorted({blocks for _, blocks, _ in lines}, reverse=True)
    figure = Figure(figsize=(11, 0.5 + 3.4 * len(kinds)), layout="constrained")
    panels = figure.subplots(len(kinds), len(FIGURES), squeeze=False)
    for (kind, blocks, mode), points in lines.items():
        style = _STYLES[memories.index(blocks) % len(_STYLES)]
        for panel, name in zip(panels[kinds.index(kind)], FIGURES, strict=True):
            panel.plot(
                [value for value, _ in points], [row[name] for _, row in points], style, marker="o", markersize=4,
                color=COLOURS[mode], label=f"{mode}, {blocks} blocks",
            )  # fmt: skip
            panel.set_xlabel("clients" if kind == "closed" else "requests per second")
            panel.set_title(name, fontsize="medium")
            panel.set_xticks(sorted(ticks[kind]))
            panel.xaxis.set_major_formatter("{x:g}")
    for panel in panels.flat:
        panel.set_ylim(bottom=0)
    save_panels(figure, path, title)


def plot_kv(records: Iterable[LoadRecord], path: Path, *, title: str) -> None:
    """Draw the share of KV blocks in use over the seconds of first rounds: a panel per load and KV memory."""
    first = [record for record in records if record.round == 1 and record.kv_usage]
    if not first:
        return
    loads = list(dict.fromkeys(record.arrivals for record in first))
    memories = sorted({record.kv_blocks for record in first})
    figure = Figure(figsize=(3 * len(loads), 0.8 + 2 * len(memories)), layout="constrained")
    panels = figure.subplots(len(memories), len(loads), squeeze=False, sharey=True)
    for record in first:
        panel = panels[memories.index(record.kv_blocks), loads.index(record.arrivals)]
        seconds = np.linspace(0, record.seconds, len(record.kv_usage))
        usage = np.array(record.kv_usage) * 100
        panel.plot(seconds, usage, color=COLOURS[record.mode], label=record.mode, linewidth=1)
        panel.set_title(f"{record.arrivals}, {record.kv_blocks} blocks", fontsize="small")
        panel.set_ylim(0, 102)
    for panel in panels[:, 0]:
        panel.set_ylabel("% of blocks in use")
    for panel in panels[-1]:
        panel.set_xlabel("seconds")
    save_panels(figure, path, title)
