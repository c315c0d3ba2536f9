"""The speed-ups as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medusa_apar.modes import Mode

from ..measurement.colours import COLOURS
from .summary import SummaryRow

_GROUP_WIDTH = 0.8


def plot_speed_up(
    rows: Sequence[SummaryRow], path: Path, *, title: str = "Speed-up: median over questions, whiskers are quartiles"
) -> bool:
    """Draw the speed-up against `ar` per category and mode: medians, with quartiles as whiskers.

    Returns:
        Whether there was anything to draw.
    """
    drawn = [row for row in rows if row.speed_up is not None and row.mode != Mode.AR]
    if not drawn:
        return False
    categories = list(dict.fromkeys(row.category for row in drawn))
    modes = list(dict.fromkeys(row.mode for row in drawn))
    width = _GROUP_WIDTH / len(modes)
    figure = Figure(figsize=(max(6.0, 2.5 + 0.27 * len(categories) * len(modes)), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, mode in enumerate(modes):
        bars = [(categories.index(row.category), row.speed_up) for row in drawn if row.mode == mode and row.speed_up]
        offset = (number - (len(modes) - 1) / 2) * width
        axes.bar(
            [place + offset for place, _ in bars],
            [spread.median for _, spread in bars],
            width * 0.92,
            yerr=(
                [spread.median - spread.lower_quartile for _, spread in bars],
                [spread.upper_quartile - spread.median for _, spread in bars],
            ),
            error_kw={"elinewidth": 1, "ecolor": "#333333"},
            color=COLOURS.get(mode),
            label=mode,
        )
    axes.axhline(1, color=COLOURS[Mode.AR], linewidth=1, linestyle="--", label=str(Mode.AR))
    axes.set_xticks(range(len(categories)), categories)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(categories) - 0.4)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("tokens/s against ar")
    axes.set_title(title, fontsize="medium")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(modes) + 1, frameon=False)
    figure.savefig(path, dpi=150)
    return True
