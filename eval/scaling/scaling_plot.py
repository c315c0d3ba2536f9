"""The four axes as one picture: tokens/s above, what a token costs below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..measurement.colours import COLOURS
from .points import Axis
from .scaling_summary import ScalingRow

LABELS = {
    Axis.THREADS: "threads of an answer",
    Axis.ROWS: "rows of a batch",
    Axis.TOKENS: "tokens of an answer",
    Axis.BACKBONE: "backbone",
}
FIGURES: tuple[tuple[str, Callable[[ScalingRow], float]], ...] = (
    ("tokens/s", lambda row: row.tokens_per_second.median),
    ("ms per token", lambda row: 1000 / row.tokens_per_second.median),
    ("nodes per token", lambda row: row.nodes_per_token),
)


def plot_scaling(rows: Sequence[ScalingRow], path: Path, *, title: str) -> None:
    """Draw a column of panels per axis, with a line per mode; all values lie on logarithmic scales."""
    axes_drawn = list(dict.fromkeys(row.axis for row in rows))
    figure = Figure(figsize=(1 + 3.2 * len(axes_drawn), 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(FIGURES), len(axes_drawn), squeeze=False, sharex="col", sharey="row")
    for column, axis in enumerate(axes_drawn):
        own = [row for row in rows if row.axis == axis]
        for line, (label, figure_of) in enumerate(FIGURES):
            _draw(panels[line, column], own, figure_of)
            if not column:
                panels[line, 0].set_ylabel(label)
        panels[-1, column].set_xlabel(LABELS[axis])
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=120)


def _draw(panel: Axes, rows: Sequence[ScalingRow], figure_of: Callable[[ScalingRow], float]) -> None:
    values = list(dict.fromkeys(row.value for row in rows))
    for mode in dict.fromkeys(row.mode for row in rows):
        own = [row for row in rows if row.mode == mode]
        places, heights = [values.index(row.value) for row in own], [figure_of(row) for row in own]
        panel.plot(places, heights, marker="o", markersize=4, color=COLOURS.get(mode), label=mode)
    panel.set_xticks(range(len(values)), [str(value).removeprefix("llama-") for value in values])
    panel.set_yscale("log", base=2)
    panel.yaxis.set_major_formatter("{x:g}")
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
