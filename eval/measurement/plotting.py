"""What plots share: the colours of modes and baselines, and the look of panels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medusa_apar.modes import Mode

from ..decoding.baselines import Baseline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS: dict[str, str] = {
    Mode.AR: "#333333",
    Baseline.GENERATE: "#999999",
    Baseline.PROMPT_LOOKUP: "#CC79A7",
    Baseline.ASSISTED: "#D55E00",
    Mode.MEDUSA: "#56B4E9",
    Mode.APAR: "#E69F00",
    Mode.MEDUSA_APAR: "#009E73",
}


def save_panels(figure: Figure, path: Path, title: str) -> None:
    """Write a figure, with one legend for all of its panels."""
    lines: dict[str, Any] = {}
    for panel in figure.axes:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        handles, labels = panel.get_legend_handles_labels()
        lines |= zip(labels, handles, strict=True)
    figure.legend(
        list(lines.values()), list(lines), loc="outside lower center", ncols=min(6, len(lines)), frameon=False
    )
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=120)
