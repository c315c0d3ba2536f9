"""What threads cost and save, on records made by hand."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from medusa_apar.eval.measurement.tables import Section
from medusa_apar.eval.speed.speed_tables import speed_tables
from medusa_apar.eval.speed.summary import ModeTurns
from medusa_apar.eval.speed.thread_summary import summarize_threads
from medusa_apar.eval.speed.turns import TurnRecord

from ..scripted_model import record

RECORDS = [
    record(1, "generate", seconds=4, answer_tokens=40),
    record(1, "ar", seconds=2, answer_tokens=40, peak_slots=50, ar_slots=50, mean_slots=30, backbone_seconds=1),
    record(
        1, "apar", seconds=2, answer_tokens=60, peak_slots=30, ar_slots=60, mean_slots=15,
        backbone_seconds=1, head_seconds=0.5, forks=2, forks_inside_steps=3, eager_children=2,
    ),
    record(2, "generate", seconds=1, answer_tokens=10, category="stem"),
    record(
        2, "apar", seconds=4, answer_tokens=20, peak_slots=80, ar_slots=100, mean_slots=60, category="stem",
        attended_pairs=300, ar_pairs=400,
        backbone_seconds=3, head_seconds=0.5, forks_inside_steps=1,
    ),
    record(3, "apar", skipped="too long", peak_slots=1, ar_slots=1, forks_inside_steps=99),
]  # fmt: skip


def table(*records: TurnRecord, mode: str = "apar") -> Section[ModeTurns]:
    return summarize_threads(records, (mode,))


def row(*records: TurnRecord) -> dict[str, Any]:
    (only,) = table(*records).rows
    return only


def test_only_modes_whose_answers_may_fork_have_a_row() -> None:
    modes = ("generate", "prompt-lookup", "assisted", "ar", "medusa", "apar", "medusa-apar")
    speeds, threads, *_ = speed_tables(RECORDS, modes)
    assert [row["mode"] for row in speeds.rows if row["category"] == "overall"] == [*modes]
    assert [row["mode"] for row in threads.rows] == ["apar", "medusa-apar"]


def test_slots_are_compared_answer_by_answer() -> None:
    found = row(*RECORDS)
    assert found["turns"] == 2
    assert found["peak"] == pytest.approx((30 / 60 + 80 / 100) / 2)
    assert found["mean"] == pytest.approx((15 / 60 + 60 / 100) / 2)


def test_a_peak_of_exactly_a_half_is_a_half() -> None:
    peaks = [record(n, "apar", peak_slots=peak, ar_slots=100) for n, peak in enumerate((20, 50, 51, 90))]
    assert row(*peaks)["half"] == 0.5


def test_an_answer_without_a_step_tells_nothing_about_slots() -> None:
    found = row(record(1, "apar", peak_slots=80, ar_slots=100, mean_slots=60), record(2, "apar", ar_slots=9))
    assert (found["turns"], found["peak"], found["mean"]) == (2, 0.8, 0.6)
    assert found["half"] == 0


def test_the_hosts_share_is_the_time_outside_backbone_and_heads() -> None:
    assert row(*RECORDS)["host"] == pytest.approx((6 - 4 - 1) / 4)


def test_counts_the_steps_that_forks_save_per_answer() -> None:
    assert row(*RECORDS)["saved"] == (3 + 2 + 1) / 2


def test_the_table_has_every_figure() -> None:
    header, rule, line = table(*RECORDS).markdown().splitlines()
    assert [cell.strip() for cell in header.strip("|").split("|")] == table().headings
    assert set(rule) <= set("|-: ")
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "apar", "2", "0.65", "0.42", "50%", "0.75", "25%", "3.0",
    ]  # fmt: skip


def test_what_is_not_known_is_shown_as_a_dash() -> None:
    assert table(RECORDS[-1]).cells == [["apar", "0", *"------"]]


def test_the_terminal_table_fits_into_80_columns() -> None:
    text = StringIO()
    many = [record(n, "medusa-apar", peak_slots=50, ar_slots=60, forks_inside_steps=123) for n in range(2)]
    section = table(*many, mode="medusa-apar")
    Console(file=text, width=80).print(section.terminal())
    lines = text.getvalue().splitlines()
    assert any(all(name in line for name in section.headings) for line in lines)
    assert any("medusa-apar" in line and "123.0" in line for line in lines)
    assert "…" not in text.getvalue()
