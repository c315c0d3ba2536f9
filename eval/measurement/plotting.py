"""What plots share: the colours of modes, baselines and peers, and the look of panels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medusa_apar.modes import Mode

from ..decoding.baselines import Baseline
from ..decoding.peers import Peer
from .spread import Spread
from .tables import Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROOM = 40
"""Characters that fit below a panel."""

COLOURS: dict[str, str] = {
    Mode.AR: "#333333",
    Baseline.GENERATE: "#999999",
    Baseline.PROMPT_LOOKUP: "#CC79A7",
    Baseline.ASSISTED: "#D55E00",
    Peer.LLAMA_CPP: "#0072B2",
    Peer.LOOKUP: "#F0E442",
    Mode.MEDUSA: "#56B4E9",
    Mode.APAR: "#E69F00",
    Mode.MEDUSA_APAR: "#009E73",
}


def draw_growth(axes: Axes, table: Section[Any], figure: str) -> None:
    """Draw a column of a table, a line per mode, over what names its rows first, at equal distances."""
    grows, _ = table.about
    values = list(dict.fromkeys(row[grows] for row in table.rows))
    for mode in dict.fromkeys(row["mode"] for row in table.rows):
        own = {row[grows]: row[figure] for row in table.rows if row["mode"] == mode and row[figure] is not None}
        heights = [each.median if isinstance(each, Spread) else each for each in own.values()]
        axes.plot([*map(values.index, own)], heights, marker="o", color=COLOURS.get(mode), label=mode)
    names = [str(value) for value in values]
    tilted: dict[str, Any] = {"rotation": 30, "ha": "right"} if len(" ".join(names)) > _ROOM else {}
    axes.set_xticks(range(len(names)), names, **tilted)
    label_axes(axes, grows, figure)


def label_axes(axes: Axes, across: str, up: str) -> None:
    """Label the axes of a panel, add a grid, and let its heights begin at 0."""
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    axes.grid()


def save_panels(figure: Figure, path: Path, title: str) -> None:
    """Write a figure, with one legend for all of its panels."""
    lines: dict[str, Any] = {}
    for panel in figure.axes:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        handles, labels = panel.get_legend_handles_labels()
        lines |= zip(labels, handles, strict=True)
    fitting = max(1, int(figure.get_figwidth() / 1.5))
    figure.legend(list(lines.values()), list(lines), loc="outside lower center", ncols=fitting, frameon=False)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=120)
