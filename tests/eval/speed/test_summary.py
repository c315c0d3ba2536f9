"""The summary's arithmetic on records made by hand."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from medusa_apar.eval.decoding.decode import GENERATE
from medusa_apar.eval.measurement.spread import Spread
from medusa_apar.eval.measurement.tables import OVERALL
from medusa_apar.eval.speed.speed_up_plot import plot_speed_up
from medusa_apar.eval.speed.summary import COLUMNS, speed_ups, summarize

from ..rows import row_of
from ..scripted_model import record

FIGURES = {"answer_tokens": 40, "steps": 40, "peak_slots": 50, "ar_slots": 50}
RECORDS = [
    record(1, "ar", seconds=4, backbone_seconds=3, **FIGURES),
    record(1, "apar", seconds=2, answer_tokens=60, steps=20, forks=3, peak_slots=30, ar_slots=60, backbone_seconds=1),
    record(1, "ar", turn=2, seconds=1, **FIGURES),
    record(1, "apar", turn=2, skipped="too long"),
    record(2, "ar", seconds=2, category="stem", answer_tokens=10, steps=9, peak_slots=20, ar_slots=20),
    record(2, "apar", seconds=1, category="stem", answer_tokens=15, steps=5, forks=1, distinct_4grams=0.59),
    record(3, "ar", seconds=2, category="stem", answer_tokens=20, steps=19, peak_slots=20, ar_slots=20),
    record(3, "apar", seconds=4, category="stem", answer_tokens=20, steps=5, distinct_4grams=0.6),
]


def row(category: str, mode: str) -> dict[str, Any]:
    return row_of(summarize(RECORDS, ("ar", "apar")), category, mode)


def test_has_a_row_per_category_and_mode() -> None:
    assert list(summarize(RECORDS, ("ar", "apar")).groups) == [
        ("math", "ar"), ("math", "apar"), ("stem", "ar"), ("stem", "apar"), (OVERALL, "ar"), (OVERALL, "apar"),
    ]  # fmt: skip


def test_sums_the_answered_turns() -> None:
    math = row("math", "apar")
    assert math["turns"] == (1, 1)
    assert (math["tokens/s"], math["tokens/step"]) == (30, 3)
    assert (math["steps"], math["forks"], math["slots/ar"]) == (20, 3, 0.5)
    assert math["outside"] == 0.5
    overall = row(OVERALL, "apar")
    assert overall["turns"] == (3, 1)
    assert overall["tokens/s"] == pytest.approx(95 / 7)
    assert overall["tokens/step"] == pytest.approx(95 / 30)
    assert overall["forks"] == pytest.approx(4 / 3)
    assert overall["forked"] == pytest.approx(2 / 3)


def test_compares_with_ar_on_the_turns_that_both_answered() -> None:
    assert speed_ups(RECORDS, "apar") == [3.0, 3.0, 0.5]
    assert row("math", "apar")["speed-up"] == Spread(3, 3, 3, 1)
    assert row("stem", "apar")["speed-up"] == Spread(1.75, 1.125, 2.375, 2)
    assert row(OVERALL, "apar")["speed-up"] == Spread(3, 1.75, 3, 3)
    assert row(OVERALL, "ar")["speed-up"] == Spread(1, 1, 1, 3)


def test_compares_with_generate_too() -> None:
    records = [*RECORDS, record(1, "generate", seconds=4, answer_tokens=40), record(2, "generate", answer_tokens=30)]
    section = summarize(records, ("generate", "apar"))
    assert row_of(section, OVERALL, "apar")["x gen"] == Spread.of([3.0, 0.5])
    assert row_of(section, OVERALL, "generate")["x gen"] == Spread.of([1.0, 1.0])
    assert row(OVERALL, "apar")["x gen"] is None


def test_joins_both_turns_of_a_question() -> None:
    records = [
        record(1, "ar", seconds=9, answer_tokens=90),
        record(1, "ar", seconds=1, answer_tokens=10, turn=2),
        record(1, "apar", seconds=3, answer_tokens=90),
        record(1, "apar", seconds=1, answer_tokens=10, turn=2),
    ]
    assert speed_ups(records, "apar") == [2.5]


def test_counts_loops_below_the_threshold() -> None:
    assert row("stem", "apar")["loops"] == 0.5
    assert row("stem", "ar")["loops"] == 0


def test_leaves_out_what_was_not_measured() -> None:
    without_ar = summarize([record(1, GENERATE, **FIGURES)], (GENERATE,))
    assert [(row["speed-up"], row["outside"]) for row in without_ar.rows] == [(None, None)] * 2


def test_survives_a_mode_without_an_answer() -> None:
    section = summarize([record(1, "ar", skipped="too long")], ("ar", "medusa"))
    assert [row["turns"] for row in section.rows] == [(0, 1), (0, 0)] * 2
    assert section.cells[0] == ["math", "ar", "0+1", *["-"] * (len(COLUMNS) - 1)]


def test_markdown_has_every_column_in_every_line() -> None:
    header, rule, *lines = summarize(RECORDS, ("ar", "apar")).markdown().splitlines()
    assert [cell.strip() for cell in header.strip("|").split("|")] == ["category", "mode", *(c.name for c in COLUMNS)]
    assert set(rule) <= set("|-: ")
    assert len(lines) == 6
    assert {line.count("|") for line in (header, rule, *lines)} == {len(COLUMNS) + 3}
    assert [cell.strip() for cell in lines[1].strip("|").split("|")] == [
        "math", "apar", "1+1", "30.0", "3.00", "20", "100%", "0.50", "-", "3.00 (3.0-3.0)", "0%", "-",
        "3.00", "3.0", "-", "-", "-", "50%", "100.0", "2.00",
    ]  # fmt: skip


def test_the_terminal_table_fits_into_80_columns() -> None:
    text = StringIO()
    records = [*RECORDS, record(1, "prompt-lookup", seconds=0.5, **FIGURES)]
    Console(file=text, width=80).print(summarize(records, ("ar", "prompt-lookup", "apar")).terminal())
    assert "3.00 (1.8-3.0)" in text.getvalue()
    assert "prompt-lookup" in text.getvalue()
    assert "…" not in text.getvalue()


def test_names_with_brackets_and_bars_stand_in_tables_as_they_are() -> None:
    named = [record(1, "ar", category=name, **FIGURES) for name in ("math [easy]", "a [/b]", "x|y")]
    section = summarize(named, ("ar",))
    shown = StringIO()
    Console(file=shown, width=80).print(section.terminal())
    text = section.markdown()
    for name in ("math [easy]", "a [/b]", "x|y"):
        assert name in shown.getvalue()
        assert f"| {name.replace('|', chr(92) + '|')} " in text


def test_plots_only_what_has_a_speed_up(tmp_path: Path) -> None:
    path = tmp_path / "speedup.png"
    assert not plot_speed_up(summarize(RECORDS, ("ar",)), path)
    assert not path.exists()
    assert plot_speed_up(summarize(RECORDS, ("ar", "apar")), path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_interval_of_a_median_holds_it_and_narrows_with_more_values() -> None:
    values = [1.0, 2.0, 3.0, 2.5, 1.5, 2.2]
    few, many = Spread.of(values), Spread.of(values * 20)
    assert few is not None
    assert many is not None
    assert few.interval is not None
    assert many.interval is not None
    for spread, (low, high) in ((few, few.interval), (many, many.interval)):
        assert low <= spread.median <= high
    assert many.interval[1] - many.interval[0] < few.interval[1] - few.interval[0]
    five = Spread.of(values[:5])
    assert five is not None
    assert five.interval is None, "the least and the greatest of five hold the median in 94 of 100 cases"
