"""The pictures: where threads and slots are drawn."""

from __future__ import annotations

import pytest

from medusa_apar.eval.report.drawings import (
    LEFT,
    PANEL_WIDTH,
    WIDTH,
    panel_picture,
    scatter_of,
    slot_curves,
    timeline_of,
)
from medusa_apar.eval.report.sweeps import Line, Panel
from medusa_apar.eval.speed.timeline import ThreadLine

ROOT = ThreadLine(None, 1, "Here are two:", ((0, 1), (1, 2), (2, 1), (3, 4)))
CHILD = ThreadLine(0, 2, "the details", ((2, 1), (3, 2)))


def test_a_thread_begins_where_it_was_opened_below_its_parent() -> None:
    root, child = timeline_of([ROOT, CHILD]).rows
    assert root.y_parent is None
    assert child.y_parent == root.y < child.y
    assert root.x_opened == LEFT
    assert child.x_opened == child.bars[0].x > root.x_opened
    assert child.bars[0].x == root.bars[2].x, "the same step stands at the same place"
    assert child.x_ended <= WIDTH


def test_bars_are_higher_the_more_tokens_were_chosen() -> None:
    (root,) = timeline_of([ROOT]).rows
    one, two, again, four = (bar.height for bar in root.bars)
    assert one == again < two < four
    assert root.bars[3].label == "step 3: 4 tokens"
    assert root.label == "thread 0: 8 tokens in steps 0 to 3"


def test_ticks_are_round_and_few() -> None:
    long = ThreadLine(None, 1, "", tuple((step, 1) for step in range(137)))
    assert [step for _, step in timeline_of([long]).ticks] == list(range(0, 137, 20))


def test_curves_rise_with_the_slots_and_end_with_their_answer() -> None:
    picture = slot_curves({"ar": [10, 20, 30, 40], "medusa-apar": [30, 20]})
    ar, ours = ([tuple(map(float, point.split(","))) for point in curve.points.split()] for curve in picture.curves)
    assert len(ar) == 4
    assert len(ours) == 2
    assert ar[0][1] > ar[3][1], "more slots stand higher"
    assert ours[0][1] == pytest.approx(ar[2][1])
    assert ours[0][0] == ar[0][0]


def test_a_panel_begins_at_nothing_and_leaves_out_what_was_not_measured() -> None:
    lines = (Line("ar", "ar", 0, (50.0, 100.0)), Line("apar, 40 blocks", "apar", 1, (None, 200.0)))
    picture = panel_picture(Panel("tokens/s", "clients", ("1", "4"), lines))
    ar, apar = picture.strokes
    bottom = picture.up[0][0]
    assert picture.up[0][1] == "0"
    assert bottom - ar.dots[1][1] == pytest.approx(2 * (bottom - ar.dots[0][1]), abs=0.2), "heights in proportion"
    assert [label for _, _, label in apar.dots] == ["apar, 40 blocks, clients 4: 200 tokens/s"]
    assert [name for _, name in picture.across] == ["1", "4"]
    assert ar.dots[0][0] == picture.across[0][0]


def test_a_mode_stands_further_right_the_faster_and_higher_the_more_of_the_figure() -> None:
    picture = scatter_of("nats/token", {"ar": (1.0, 0.6), "apar": (2.0, 1.2), "medusa": (3.0, 0.6)})
    ar, apar, medusa = picture.dots
    assert ar.y == medusa.y > apar.y
    one = ar.x - LEFT
    assert [dot.x - LEFT for dot in picture.dots] == pytest.approx([one, 2 * one, 3 * one], abs=0.3)
    assert medusa.x < PANEL_WIDTH
    assert (picture.across[0], picture.up[0][1]) == ((LEFT, "0"), "0"), "both axes begin at 0"
    assert picture.up[0][0] - ar.y == pytest.approx(ar.y - apar.y, abs=0.2), "heights in proportion"
    assert apar.label == "apar: 1.2 nats/token, speed-up 2"
