"""The pictures of a report as SVG: threads step by step, slots over time, figures as something grows, quality by speed.

Colours are CSS variables of the page, so that they follow its light and dark scheme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from ..speed.timeline import ThreadLine
from .sweeps import Line, Panel

WIDTH = 860
LEFT = 64
LINE = 26
TOP = 22
BOTTOM = 34


@dataclass(frozen=True, slots=True)
class Bar:
    """What one thread chose in one step.

    Attributes:
        x, y, width, height: where it is drawn.
        label: what a pointer shows.
    """

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True, slots=True)
class Row:
    """One thread's row in the picture of a timeline.

    Attributes:
        number: of the thread.
        y: middle of the row.
        bars: its steps.
        x_opened, x_ended: where its life begins and ends.
        y_parent: middle of its parent's row; None for the root.
        text: what it wrote.
        label: what a screen reader says.
    """

    number: int
    y: float
    bars: tuple[Bar, ...]
    x_opened: float
    x_ended: float
    y_parent: float | None
    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """The picture of one answer: steps from left to right, threads from top to bottom.

    Attributes:
        rows: the threads, in the order in which they were opened.
        ticks: places and names of some steps.
        height: of the picture.
    """

    rows: tuple[Row, ...]
    ticks: tuple[tuple[float, int], ...]
    height: float


def timeline_of(lines: Sequence[ThreadLine]) -> Timeline:
    """Lay out an answer's threads; bars are as high as tokens were chosen in a step."""
    steps = max((line.ended for line in lines), default=0) + 1
    most = max((tokens for line in lines for _, tokens in line.tokens), default=1)
    unit = (WIDTH - LEFT - 8) / steps
    middle = [TOP + LINE * (at + 0.5) for at in range(len(lines))]
    rows = []
    for at, line in enumerate(lines):
        bars = []
        for step, tokens in line.tokens:
            height = 6 + (LINE - 10) * (tokens - 1) / max(1, most - 1)
            x = LEFT + unit * step
            label = f"step {step}: {tokens} token{'s' * (tokens > 1)}"
            bars.append(Bar(round(x, 2), round(middle[at] - height / 2, 2), round(unit * 0.86, 2), height, label))
        total = sum(tokens for _, tokens in line.tokens)
        rows.append(
            Row(
                number=at,
                y=middle[at],
                bars=tuple(bars),
                x_opened=round(LEFT + unit * line.opened, 2),
                x_ended=round(LEFT + unit * (line.ended + 0.86), 2),
                y_parent=None if line.parent is None else middle[line.parent],
                text=line.text,
                label=f"thread {at}: {total} tokens in steps {line.opened} to {line.ended}",
            )
        )
    every = _round_step(steps)
    ticks = tuple((round(LEFT + unit * (step + 0.43), 2), step) for step in range(0, steps, every))
    return Timeline(tuple(rows), ticks, TOP + LINE * len(lines) + BOTTOM)


@dataclass(frozen=True, slots=True)
class Curve:
    """A line in the picture of slots.

    Attributes:
        name: of the mode.
        points: of an SVG polyline.
    """

    name: str
    points: str


@dataclass(frozen=True, slots=True)
class SlotCurves:
    """Slots held step by step, of several modes on one question.

    Attributes:
        curves: one per mode.
        step_ticks, slot_ticks: places and names along both axes.
        height: of the picture.
    """

    curves: tuple[Curve, ...]
    step_ticks: tuple[tuple[float, int], ...]
    slot_ticks: tuple[tuple[float, int], ...]
    height: float


def slot_curves(held: Mapping[str, Sequence[int]], height: float = 240) -> SlotCurves:
    """Draw slots held in each step, by mode."""
    steps = max(map(len, held.values()), default=1)
    most = max((max(slots, default=0) for slots in held.values()), default=1) or 1
    across = (WIDTH - LEFT - 8) / max(1, steps)
    up = (height - TOP - BOTTOM) / most

    def y(slots: float) -> float:
        return round(height - BOTTOM - up * slots, 2)

    curves = tuple(
        Curve(name, " ".join(f"{LEFT + across * (at + 1):.1f},{y(each)}" for at, each in enumerate(slots)))
        for name, slots in held.items()
    )
    step_ticks = tuple((round(LEFT + across * step, 2), step) for step in range(0, steps + 1, _round_step(steps)))
    slot_ticks = tuple((y(slots), slots) for slots in range(0, most + 1, _round_step(most, ticks=5)))
    return SlotCurves(curves, step_ticks, slot_ticks, height)


PANEL_WIDTH, PANEL_HEIGHT = 420, 250


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line of a sweep's panel.

    Attributes:
        line: whose it is.
        points: of an SVG polyline.
        dots: places of what was measured, each with its figure.
    """

    line: Line
    points: str
    dots: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True, slots=True)
class PanelPicture:
    """The picture of one figure as something grows.

    Attributes:
        panel: what it shows.
        strokes: its lines.
        across, up: places and names of the ticks along both axes.
    """

    panel: Panel
    strokes: tuple[Stroke, ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]


def rounded(figure: float) -> str:
    """A figure to three digits, or whole."""
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def panel_picture(panel: Panel) -> PanelPicture:
    """Draw a panel; its values lie at equal distances, and heights begin at 0."""
    heights = [height for line in panel.lines for height in line.heights if height is not None]
    most = max(heights, default=0.0) or 1.0
    unit = (PANEL_HEIGHT - TOP - BOTTOM) / most
    column = (PANEL_WIDTH - LEFT - 8) / len(panel.values)
    across = [round(LEFT + column * (at + 0.5), 1) for at in range(len(panel.values))]

    def y(height: float) -> float:
        return round(PANEL_HEIGHT - BOTTOM - unit * height, 1)

    strokes = []
    for line in panel.lines:
        dots = tuple(
            (x, y(height), f"{line.name}, {panel.grows} {value}: {rounded(height)} {panel.figure}")
            for x, value, height in zip(across, panel.values, line.heights, strict=True)
            if height is not None
        )
        strokes.append(Stroke(line, " ".join(f"{x},{height}" for x, height, _ in dots), dots))
    up = tuple((y(height), f"{height:g}") for height in _round_heights(most))
    return PanelPicture(panel, tuple(strokes), tuple(zip(across, panel.values, strict=True)), up)


@dataclass(frozen=True, slots=True)
class Dot:
    """What one mode reached.

    Attributes:
        mode: which one.
        x, y: where it is drawn.
        label: what a pointer shows.
    """

    mode: str
    x: float
    y: float
    label: str


@dataclass(frozen=True, slots=True)
class Scatter:
    """The picture of one figure against the speed-up; both axes begin at 0.

    Attributes:
        figure: what is drawn upwards.
        dots: one per mode.
        across, up: places and names of the ticks along both axes.
    """

    figure: str
    dots: tuple[Dot, ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]


def scatter_of(figure: str, points: Mapping[str, tuple[float, float]]) -> Scatter:
    """Draw the speed-up and a figure of each mode, all above 0, in a panel's size."""
    widest, highest = (max(point[axis] for point in points.values()) for axis in (0, 1))

    def x(speed_up: float) -> float:
        return round(LEFT + (PANEL_WIDTH - LEFT - 16) * speed_up / widest, 1)

    def y(height: float) -> float:
        return round(PANEL_HEIGHT - BOTTOM - (PANEL_HEIGHT - TOP - BOTTOM) * height / highest, 1)

    dots = tuple(
        Dot(mode, x(speed_up), y(height), f"{mode}: {rounded(height)} {figure}, speed-up {rounded(speed_up)}")
        for mode, (speed_up, height) in points.items()
    )
    across = tuple((x(each), f"{each:g}") for each in _round_heights(widest))
    up = tuple((y(each), f"{each:g}") for each in _round_heights(highest))
    return Scatter(figure, dots, across, up)


def _round_heights(most: float) -> list[float]:
    """Round numbers from 0 on, at equal distances, at most six up to the largest height."""
    scale = 10 ** floor(log10(most)) / 100
    step = _round_step(ceil(most / scale), ticks=5)
    return [each * scale for each in range(0, ceil(most / scale) + 1, step) if each * scale <= most]


def _round_step(span: int, ticks: int = 10) -> int:
    """A round distance between so many ticks at most."""
    least = max(1, ceil(span / ticks))
    size = int(10 ** (len(str(least)) - 1))
    return next(each * size for each in (1, 2, 5, 10) if each * size >= least)
