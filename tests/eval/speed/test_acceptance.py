"""How far draft tokens reach, on timelines made by hand."""

from __future__ import annotations

import pytest

from medusa_apar.eval.speed.acceptance_summary import summarize_acceptance
from medusa_apar.eval.speed.timeline import ThreadLine
from medusa_apar.eval.speed.turns import TurnRecord

from ..scripted_model import record

ROOT = ThreadLine(None, 1, "", ((0, 1), (1, 2), (2, 1), (3, 4)))
CHILD = ThreadLine(0, 2, "", ((2, 1), (3, 2)))


def answered(number: int, *lines: ThreadLine) -> TurnRecord:
    return record(number, "medusa-apar", threads=lines)


def test_shares_are_of_the_steps_of_single_threads() -> None:
    section = summarize_acceptance([answered(1, ROOT)], ["ar", "medusa-apar"])
    assert list(section.groups) == [("medusa-apar", "all")]
    (row,) = section.rows
    assert row["steps"] == 3, "what comes with the prompt is no step"
    assert [row[count] for count in "12345"] == pytest.approx([2 / 3, 1 / 3, 1 / 3, 0, 0])
    assert row["threads"] == 1


def test_threads_of_every_depth_have_a_row_where_there_are_several() -> None:
    every, root, child = summarize_acceptance([answered(1, ROOT, CHILD)], ["medusa-apar"]).rows
    assert (every["depth"], root["depth"], child["depth"]) == ("all", 1, 2)
    assert every["steps"] == root["steps"] + child["steps"] == 5
    assert every["threads"] == pytest.approx(5 / 3)
    assert root["threads"] is None
    assert child["1"] == 0.5


def test_baselines_have_no_timeline_and_no_row() -> None:
    assert summarize_acceptance([record(1, "generate")], ["generate"]).rows == []


def test_the_table_has_a_column_per_head() -> None:
    text = summarize_acceptance([answered(1, ROOT)], ["medusa-apar"]).markdown()
    header, _, line = text.splitlines()
    assert [cell.strip() for cell in header.split("|")[1:-1]] == ["mode", "depth", "threads", "steps", *"12345"]
    assert "0.67" in line
