"""Sweeps: figures as something grows, out of the folders that `eval batch`, `eval scaling` and `eval serving` leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from medusa_apar.heads.checkpoint_files import read_json

from ..batch import batch_summary
from ..batch.batch_run import BatchRecord
from ..measurement.records import Record

RecordT = TypeVar("RecordT", bound=Record)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel.

    Attributes:
        name: what it is of.
        mode: which colour it has.
        style: number of its dashes' style.
        heights: at the panel's values; None where nothing was measured.
    """

    name: str
    mode: str
    style: int
    heights: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure as one thing grows.

    Attributes:
        figure: what is drawn upwards.
        grows: what is drawn to the right.
        values: how far it has grown, equally spaced.
        lines: what is compared.
    """

    figure: str
    grows: str
    values: tuple[str, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Sweep:
    """A measurement of something that grows.

    Attributes:
        folder: where it lies.
        settings: what its figures depend on.
        title: what was measured, in a few words; a simulation is called one.
        panels: its pictures.
        table: all figures, as Markdown.
        legend: of the table.
    """

    folder: Path
    settings: dict[str, Any]
    title: str
    panels: tuple[Panel, ...]
    table: str
    legend: str


def read_sweep(folder: Path) -> Sweep | None:
    """Read a folder of results; None where it holds no sweep.

    Raises:
        ValueError: another version wrote it, or it holds nothing yet; names the file and the remedy.
    """
    for name, read in READERS.items():
        path = folder / name
        if path.is_file() and (folder / "settings.json").is_file():
            return read(path, read_json(folder / "settings.json"))
    return None


def read_records(path: Path, record_type: type[RecordT]) -> list[RecordT]:
    """The measurements of a file of JSON lines.

    Raises:
        ValueError: another version wrote it, or it holds nothing yet; names the file and the remedy.
    """
    try:
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]  # a line that was cut off is measured again when the run goes on
        records = [record_type.from_json(line) for line in whole.splitlines()]
    except ValueError as error:
        raise ValueError(f"{path}: {error}; measure again into another folder") from error
    if not records:
        raise ValueError(f"{path} holds nothing yet; let the measurement end first")
    return records


def _of_batches(path: Path, settings: dict[str, Any]) -> Sweep:
    rows = batch_summary.summarize(read_records(path, BatchRecord), settings["modes"])
    sizes = list(dict.fromkeys(row.batch_size for row in rows))
    of_mode = {
        mode: {row.batch_size: row for row in rows if row.mode == mode}
        for mode in dict.fromkeys(row.mode for row in rows)
    }
    figures: tuple[tuple[str, Callable[[batch_summary.BatchRow], float | None]], ...] = (
        ("tokens/s", lambda row: row.tokens_per_second.median),
        ("tokens/s against ar", lambda row: None if row.speed_up is None else row.speed_up.median),
    )
    panels = tuple(
        Panel(
            figure,
            "prompts in a batch",
            tuple(map(str, sizes)),
            tuple(
                Line(mode, mode, 0, tuple(None if size not in own else of(own[size]) for size in sizes))
                for mode, own in of_mode.items()
            ),
        )
        for figure, of in figures
    )
    title = f"Batches: {settings['model']} on {settings['questions']}, {settings['dtype']}"
    return Sweep(path.parent, settings, title, panels, batch_summary.markdown(rows), batch_summary.LEGEND)


def _of_scaling(path: Path, settings: dict[str, Any]) -> Sweep:
    from ..scaling import scaling_summary  # needs the packages of training, as what wrote the folder did
    from ..scaling.points import Axis, Point
    from ..scaling.scaling_plot import LABELS
    from ..scaling.scaling_run import ScalingRecord

    records = {record.key: record for record in read_records(path, ScalingRecord)}
    sweeps = {Axis(axis): values for axis, values in settings["sweeps"].items()}
    rows = scaling_summary.summarize(records, Point(**settings["base"]), sweeps, settings["modes"])
    panels = []
    for axis, values in sweeps.items():
        lines = []
        for mode in settings["modes"]:
            own = {row.value: row for row in rows if (row.axis, row.mode) == (axis, mode)}
            heights = tuple(own[value].tokens_per_second.median if value in own else None for value in values)
            lines.append(Line(mode, mode, 0, heights))
        panels.append(Panel("tokens/s", LABELS[axis], tuple(map(str, values)), tuple(lines)))
    title = f"{settings['what']}: tokens/s as threads, rows, answers and backbones grow"
    return Sweep(path.parent, settings, title, tuple(panels), scaling_summary.markdown(rows), scaling_summary.LEGEND)


def _of_loads(path: Path, settings: dict[str, Any]) -> Sweep:
    from ..serving import load_summary  # needs the packages of serving
    from ..serving.load_run import LoadRecord

    rows = load_summary.summarize(read_records(path, LoadRecord))
    figures: tuple[tuple[str, Callable[[load_summary.LoadRow], float]], ...] = (
        ("tokens/s", lambda row: row.tokens_per_second),
        ("mean seconds per answer", lambda row: row.latency_mean),
    )
    loads = list(dict.fromkeys(row.arrivals for row in rows))
    memories = sorted({row.kv_blocks for row in rows}, reverse=True)
    panels = []
    for figure, of in figures:
        lines = []
        for style, blocks in enumerate(memories):
            for mode in dict.fromkeys(row.mode for row in rows):
                own = {row.arrivals: row for row in rows if (row.kv_blocks, row.mode) == (blocks, mode)}
                heights = tuple(of(own[load]) if load in own else None for load in loads)
                lines.append(Line(f"{mode}, {blocks} blocks", mode, style, heights))
        panels.append(Panel(figure, "load", tuple(loads), tuple(lines)))
    title = f"Serving: {settings['model']} on vLLM, {settings['questions']}"
    return Sweep(path.parent, settings, title, tuple(panels), load_summary.markdown(rows), load_summary.LEGEND)


READERS: dict[str, Callable[[Path, dict[str, Any]], Sweep]] = {
    "batches.jsonl": _of_batches,
    "points.jsonl": _of_scaling,
    "loads.jsonl": _of_loads,
}
"""By the file that a measurement leaves."""
