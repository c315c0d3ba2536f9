"""The speed-ups as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medusa_apar.modes import Mode

from ..measurement.plotting import COLOURS, save_panels
from ..measurement.tables import Section
from .summary import ModeTurns

_GROUP_WIDTH = 0.8


def plot_speed_up(
    table: Section[ModeTurns], path: Path, *, title: str = "Speed-up: median over questions, whiskers are quartiles"
) -> bool:
    """Draw the speed-ups as PNG.

    Returns:
        Whether there was anything to draw.
    """
    drawn = compared(table)
    if not drawn:
        return False
    figure = Figure(figsize=(max(6.0, 2.5 + 0.27 * len(drawn)), 4.5), layout="constrained")
    draw_speed_ups(figure.add_subplot(), drawn)
    save_panels(figure, path, title)
    return True


def compared(table: Section[ModeTurns]) -> list[dict[str, Any]]:
    """The rows of the modes beside `ar` that have a speed-up against it."""
    return [row for row in table.rows if row["speed-up"] is not None and row["mode"] != Mode.AR]


def draw_speed_ups(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw a group of bars per category, a bar per mode: medians, with quartiles as whiskers, and a line for `ar`."""
    categories = list(dict.fromkeys(row["category"] for row in rows))
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    width = _GROUP_WIDTH / len(modes)
    for number, mode in enumerate(modes):
        bars = [(categories.index(row["category"]), row["speed-up"]) for row in rows if row["mode"] == mode]
        offset = (number - (len(modes) - 1) / 2) * width
        axes.bar(
            [place + offset for place, _ in bars],
            [spread.median for _, spread in bars],
            width * 0.92,
            yerr=(
                [spread.median - spread.lower_quartile for _, spread in bars],
                [spread.upper_quartile - spread.median for _, spread in bars],
            ),
            error_kw={"elinewidth": 1, "ecolor": COLOURS[Mode.AR]},
            color=COLOURS.get(mode),
            label=mode,
        )
    axes.axhline(1, color=COLOURS[Mode.AR], linewidth=1, linestyle="--", label=str(Mode.AR))
    axes.set_xticks(range(len(categories)), categories)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(categories) - 0.4)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("tokens/s against ar")
    axes.set_axisbelow(True)
