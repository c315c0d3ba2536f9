"""KV blocks in use over time, as one picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..measurement.colours import COLOURS
from .load_run import MODES, LoadRecord


def plot_kv(records: Iterable[LoadRecord], path: Path, *, title: str) -> None:
    """Draw the share of KV blocks in use over the seconds of first rounds: a panel per load and KV memory."""
    first = [record for record in records if record.round == 1 and record.kv_usage]
    loads = list(dict.fromkeys(record.arrivals for record in first))
    memories = sorted({record.kv_blocks for record in first})
    if not first:
        return
    figure = Figure(figsize=(3 * len(loads), 0.8 + 2 * len(memories)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(memories), len(loads), squeeze=False, sharey=True)
    for line, blocks in zip(panels, memories, strict=True):
        for panel, arrivals in zip(line, loads, strict=True):
            for mode in MODES:
                for record in first:
                    if (record.kv_blocks, record.arrivals, record.mode) == (blocks, arrivals, mode):
                        seconds = np.linspace(0, record.seconds, len(record.kv_usage))
                        panel.plot(
                            seconds, np.array(record.kv_usage) * 100, color=COLOURS[mode], label=mode, linewidth=1
                        )
            panel.set_title(f"{arrivals}, {blocks} blocks", fontsize="small")
            panel.set_ylim(0, 102)
            panel.grid(alpha=0.3)
            panel.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel("% of blocks in use")
    for panel in panels[-1]:
        panel.set_xlabel("seconds")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=100)
