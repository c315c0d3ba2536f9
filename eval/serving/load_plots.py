"""Pictures: throughput and latency by load and by KV memory, and the KV blocks in use over time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..measurement.plotting import COLOURS, draw_growth, save_panels
from ..measurement.tables import Section
from .load_run import LoadRecord
from .load_summary import ModeLoads

FIGURES = ("tokens/s", "s/answer", "ms/token")


def plot_loads(tables: Sequence[Section[ModeLoads]], path: Path, *, title: str) -> None:
    """Draw throughput, latency and latency per token over loads: a row of panels per KV memory, a line per mode."""
    figure = Figure(figsize=(11, 0.5 + 3.4 * len(tables)), layout="constrained")
    panels = figure.subplots(len(tables), len(FIGURES), squeeze=False)
    for row, table in zip(panels, tables, strict=True):
        for panel, name in zip(row, FIGURES, strict=True):
            draw_growth(panel, table, name)
            panel.set_title(table.title, fontsize="small")
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
