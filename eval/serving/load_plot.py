"""Throughput and latency by load and by KV memory, as one picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..measurement.colours import COLOURS
from .load_run import MODES
from .load_summary import LoadRow

FIGURES: tuple[tuple[str, Callable[[LoadRow], float]], ...] = (
    ("tokens/s", lambda row: row.tokens_per_second),
    ("mean seconds per answer", lambda row: row.latency_mean),
    ("mean ms per token", lambda row: 1000 * row.seconds_per_token),
)
_STYLES = ("-", "--", ":", "-.")


def plot_loads(rows: Sequence[LoadRow], path: Path, *, title: str) -> None:
    """Draw throughput, latency and latency per token: over loads of a kind, a line per mode and KV memory."""
    kinds = list(dict.fromkeys(row.arrivals.split(":")[0] for row in rows))
    memories = sorted({row.kv_blocks for row in rows}, reverse=True)
    figure = Figure(figsize=(11, 0.5 + 3.4 * len(kinds)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(kinds), len(FIGURES), squeeze=False)
    for line, kind in enumerate(kinds):
        for panel, (label, figure_of) in zip(panels[line], FIGURES, strict=True):
            for style, blocks in zip(_STYLES * len(memories), memories, strict=False):
                for mode in MODES:
                    own = [row for row in rows if (row.kv_blocks, row.mode) == (blocks, mode)]
                    own = [row for row in own if row.arrivals.startswith(kind)]
                    values = [float(row.arrivals.split(":")[1]) for row in own]
                    panel.plot(
                        values, [figure_of(row) for row in own], style, marker="o", markersize=4,
                        color=COLOURS[mode], label=f"{mode}, {blocks} blocks",
                    )  # fmt: skip
            panel.set_xlabel("clients" if kind == "closed" else "requests per second")
            panel.set_title(label, fontsize="medium")
            panel.set_xticks(
                sorted({float(row.arrivals.split(":")[1]) for row in rows if row.arrivals.startswith(kind)})
            )
            panel.xaxis.set_major_formatter("{x:g}")
            panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
            panel.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=120)
