"""`benchmarks.step_costs` prints a row for each way to compute the weights."""

from __future__ import annotations

import pytest

from benchmarks import step_costs
from benchmarks.step_costs import NODES, main, ways

from ..fixtures import TINY


def test_a_row_for_each_way(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(step_costs, "measure", lambda runner, drafter: StepOf())
    assert main(["--model", str(TINY)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for way in ways():
        (row,) = (line for line in lines if line.startswith(f"| {way}"))
        assert [float(cell) for cell in row.split("|")[2:-1]] == list(NODES)


class StepOf:
    """A millisecond for each node."""

    def forward(self, nodes: int) -> float:
        return nodes / 1000
