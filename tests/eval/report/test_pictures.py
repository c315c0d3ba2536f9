"""The pictures: what stands in their axes, and how they are written for the page."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure

from medusa_apar.eval.measurement.plotting import draw_growth
from medusa_apar.eval.measurement.spread import Spread
from medusa_apar.eval.measurement.tables import Column, Section
from medusa_apar.eval.report.pictures import (
    GREY,
    as_svg,
    draw_against_speed,
    draw_slots,
    draw_timeline,
)
from medusa_apar.eval.speed.speed_up_plot import draw_speed_ups
from medusa_apar.eval.speed.timeline import ThreadLine

ROOT = ThreadLine(None, 1, "Here are two:", ((0, 1), (1, 2), (2, 1), (3, 4)))
CHILD = ThreadLine(0, 2, "the details", ((2, 1), (3, 2)))


@pytest.fixture
def axes() -> Axes:
    return Figure().add_subplot()


def lines_of(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    return {str(line.get_label()): [*map(tuple, np.asarray(line.get_xydata()).tolist())] for line in axes.lines}


def test_a_category_has_a_bar_per_mode(axes: Axes) -> None:
    spread = Spread.of([1.0, 2.0, 3.0])
    rows = [{"category": name, "mode": mode, "speed-up": spread}
            for name in ("math", "overall") for mode in ("medusa", "apar", "medusa-apar")]  # fmt: skip
    draw_speed_ups(axes, rows)
    assert [bar.get_height() for bar in axes.patches] == [2.0] * 6  # type: ignore[attr-defined]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["math", "overall"]
    assert axes.get_legend_handles_labels()[1] == ["ar", "medusa", "apar", "medusa-apar"]


def test_a_thread_begins_where_it_was_opened_below_its_parent(axes: Axes) -> None:
    draw_timeline(axes, [ROOT, CHILD])
    root, child = (container.patches for container in axes.containers)  # type: ignore[attr-defined]
    assert [bar.get_center() for bar in child] == [pytest.approx((2, 1)), pytest.approx((3, 1))]
    assert root[2].get_x() == child[0].get_x(), "the same step stands at the same place"
    _, fork, _ = (lines.get_segments()[0] for lines in axes.collections if isinstance(lines, LineCollection))
    assert fork.tolist() == [[1.5, 0], [1.5, 1]], "from the parent's row to its own"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["thread 0", "thread 1"]
    bottom, top = axes.get_ylim()
    assert bottom > top, "the root stands on top"


def test_bars_are_higher_the_more_tokens_were_chosen(axes: Axes) -> None:
    draw_timeline(axes, [ROOT])
    one, two, again, four = (bar.get_height() for bar in axes.patches)  # type: ignore[attr-defined]
    assert (two, again, four) == pytest.approx((2 * one, one, 4 * one))
    assert four < 1, "inside its row"


def test_lines_of_slots_end_with_their_answer(axes: Axes) -> None:
    draw_slots(axes, {"ar": [10, 20, 30, 40], "medusa-apar": [30, 20]})
    assert lines_of(axes) == {"ar": [(1, 10), (2, 20), (3, 30), (4, 40)], "medusa-apar": [(1, 30), (2, 20)]}
    assert axes.get_ylim()[0] == 0


def test_what_was_not_measured_as_something_grows_is_left_out(axes: Axes) -> None:
    columns: list[Column[Any]] = [Column("tokens/s", lambda figure: figure)]
    groups = {(1, "ar"): 50.0, (4, "ar"): 100.0, (1, "apar"): None, (4, "apar"): Spread.of([199.0, 200.0, 300.0])}
    draw_growth(axes, Section("Loads", ("clients", "mode"), columns, groups), "tokens/s")
    assert lines_of(axes) == {"ar": [(0, 50), (1, 100)], "apar": [(1, 200)]}, "values at equal distances"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("clients", "tokens/s")
    assert axes.get_ylim()[0] == 0


def test_a_mode_stands_further_right_the_faster_and_higher_the_more_of_the_figure(axes: Axes) -> None:
    points = {"ar": (1.0, 0.6), "apar": (2.0, 1.2), "medusa": (3.0, 0.6)}
    draw_against_speed(axes, "nats/token", points)
    drawn = [dots for dots in axes.collections if isinstance(dots, PathCollection)]
    assert {dots.get_label(): tuple(np.asarray(dots.get_offsets())[0].tolist()) for dots in drawn} == points
    assert (axes.get_xlim()[0], axes.get_ylim()[0]) == (0, 0), "both axes begin at 0"


def test_an_svg_follows_the_scheme_of_its_page() -> None:
    draw = partial(draw_slots, held={"ar": [1, 2], "<b> $x$": [2, 3]})
    svg = as_svg(draw, draw)
    assert svg.startswith("<svg")
    assert svg.count("KV slots</text>") == 2, "a panel per drawing"
    assert svg.count("&lt;b&gt; $x$</text>") == 1, "one legend for both; names are no markup"
    assert "var(--faint)" in svg
    assert "stroke: var(--ink)" in svg, "the line of `ar`"
    assert GREY not in svg
    assert "http" not in svg
    assert as_svg(draw, draw) == svg, "the same page again"
