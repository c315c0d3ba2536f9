"""The pictures of the page: each is drawn into axes by matplotlib, and `as_svg` writes them for the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medusa_apar.modes import Mode

from ..measurement.plotting import COLOURS, label_axes
from ..speed.timeline import ThreadLine

GREY = "#7a7a7a"
"""Of texts and axes; readable on a light and on a dark page."""
_GREY_THINGS = ("axes.edgecolor", "axes.labelcolor", "grid.color", "text.color", "xtick.color", "ytick.color")
_STYLE: Any = dict.fromkeys(_GREY_THINGS, GREY) | {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.sans-serif": ["DejaVu Sans"],
    "grid.alpha": 0.3,
    "svg.fonttype": "none",
    "svg.hashsalt": "medusa-apar",
    "text.parse_math": False,
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def as_svg(*draw: Callable[[Axes], None], width: float = 9.0, height: float = 3.5) -> str:
    """Draw panels side by side above one legend.

    Args:
        *draw: draw a panel each.
        width: in inches.
        height: in inches.

    Returns:
        An `<svg>` that takes the page's colours for texts and for `ar`.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        panels = figure.subplots(1, len(draw), squeeze=False)[0]
        for axes, draw_panel in zip(panels, draw, strict=True):
            draw_panel(axes)
        handles, labels = panels[0].get_legend_handles_labels()
        if labels:
            figure.legend(handles, labels, loc="outside lower center", ncols=int(width / 1.5), frameon=False)
        file = StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    svg = re.sub(r"^.*?(?=<svg)", "", file.getvalue(), flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"|(?<=<g) id="[^"]*"', "", svg)  # such ids are unique in one picture only
    return svg.replace(GREY, "var(--faint)").replace(COLOURS[Mode.AR], "var(--ink)")


def draw_timeline(axes: Axes, lines: Sequence[ThreadLine]) -> None:
    """Draw a row per thread, with a bar per step, as high as tokens were chosen in it, and a line per fork."""
    most = max((tokens for line in lines for _, tokens in line.tokens), default=1)
    for row, line in enumerate(lines):
        if line.parent is not None:
            axes.vlines(line.opened - 0.5, line.parent, row, color=COLOURS[Mode.APAR], zorder=0)
        axes.hlines(row, line.opened - 0.5, line.ended + 0.5, color=GREY, linewidth=1, zorder=0)
        steps, heights = [step for step, _ in line.tokens], [0.8 * tokens / most for _, tokens in line.tokens]
        axes.bar(steps, heights, 0.86, [row - height / 2 for height in heights], color=COLOURS[Mode.MEDUSA_APAR])
    axes.set_yticks(range(len(lines)), [f"thread {row}" for row in range(len(lines))])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("step (one forward pass)")
    axes.locator_params(axis="x", integer=True)
    axes.margins(x=0.01)


def draw_slots(axes: Axes, held: Mapping[str, Sequence[int]]) -> None:
    """Draw the KV slots held in each step, from step 1: a line per mode."""
    for mode, slots in held.items():
        axes.plot(range(1, len(slots) + 1), slots, color=COLOURS.get(mode), label=mode)
    label_axes(axes, "step (one forward pass)", "KV slots")


def draw_against_speed(axes: Axes, figure: str, points: Mapping[str, tuple[float, float]]) -> None:
    """Draw a point per mode: its speed-up to the right and the figure upwards, both from 0."""
    for mode, (speed_up, height) in points.items():
        axes.scatter(speed_up, height, color=COLOURS.get(mode), label=mode)
    axes.set_xlim(0, 1.05 * axes.get_xlim()[1])
    label_axes(axes, "speed-up", figure)
