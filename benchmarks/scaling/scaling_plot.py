"""The axes as one picture: tokens/s above, what a token costs below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from medusa_apar.eval.measurement.plotting import COLOURS, save_panels
from medusa_apar.eval.measurement.spread import Spread
from medusa_apar.eval.measurement.tables import Section

from .points import Axis

LABELS: dict[str, str] = {
    Axis.THREADS: "threads of an answer",
    Axis.ROWS: "rows of a batch",
    Axis.TOKENS: "tokens of an answer",
    Axis.BACKBONE: "backbone",
}
FIGURES = ("tokens/s", "ms/token", "nodes/token")


def plot_scaling(tables: Sequence[Section[Any]], path: Path, *, title: str) -> None:
    """Draw a column of panels per axis, with a line per mode; all values lie on logarithmic scales."""
    figure = Figure(figsize=(1 + 3.2 * len(tables), 7.5), layout="constrained")
    panels = figure.subplots(len(FIGURES), len(tables), squeeze=False, sharex="col", sharey="row")
    for column, table in zip(panels.T, tables, strict=True):
        axis = table.about[0]
        values = list(dict.fromkeys(row[axis] for row in table.rows))
        for panel, name in zip(column, FIGURES, strict=True):
            for mode in dict.fromkeys(row["mode"] for row in table.rows):
                own = [row for row in table.rows if row["mode"] == mode]
                heights = [row[name].median if isinstance(row[name], Spread) else row[name] for row in own]
                places = [values.index(row[axis]) for row in own]
                panel.plot(places, heights, marker="o", markersize=4, color=COLOURS.get(mode), label=mode)
            panel.set_xticks(range(len(values)), [str(value).removeprefix("llama-") for value in values])
            panel.set_yscale("log", base=2)
            panel.yaxis.set_major_formatter("{x:g}")
        column[-1].set_xlabel(LABELS[axis])
    for panel, name in zip(panels[:, 0], FIGURES, strict=True):
        panel.set_ylabel(name)
    save_panels(figure, path, title)
