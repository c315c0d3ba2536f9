"""The cost curve, and what a step should carry."""

from __future__ import annotations

import pytest

from medusa_apar import budget as budget_module
from medusa_apar.budget import MEASURED_NODES, CostCurve, NodeBudget


def test_the_curve_never_falls_and_joins_its_points_by_lines() -> None:
    curve = CostCurve.through((1, 4, 8), (1.0, 4.0, 3.0))
    assert [curve(n) for n in (1, 2, 3, 4, 8)] == [1.0, 2.0, 3.0, 4.0, 4.0]


def test_beyond_what_was_measured_time_rises_in_proportion() -> None:
    assert CostCurve.through((1, 8), (1.0, 2.0))(32) == pytest.approx(8.0)


def test_measuring_times_every_size_after_a_warm_up() -> None:
    calls: list[int] = []
    curve = CostCurve.measure(calls.append, repeats=2)
    assert calls == [*MEASURED_NODES] * 3
    assert curve(MEASURED_NODES[-1]) >= curve(1) > 0


def test_a_slow_model_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_module, "ENOUGH_SECONDS", 0.0)
    calls: list[int] = []
    CostCurve.measure(calls.append, repeats=5)
    assert calls == [*MEASURED_NODES] * 2


def test_a_budget_needs_exactly_one_rule() -> None:
    with pytest.raises(ValueError, match="and not both"):
        NodeBudget()
    with pytest.raises(ValueError, match="nodes_per_step=0 is below 1"):
        NodeBudget(nodes_per_step=0)


def test_the_step_ends_behind_the_best_ratio_of_tokens_to_time() -> None:
    tally = NodeBudget(CostCurve.through((1, 2, 3, 64), (1.0, 1.1, 3.0, 64.0))).start(threads=1)
    assert [tally.add(0.5), tally.add(0.5)] == [True, False]


def test_a_step_looks_past_a_stair() -> None:
    curve = CostCurve.through((1, 2, 6, 64), (1.0, 1.6, 1.6, 9.0))
    tally = NodeBudget(curve).start(threads=1)
    assert [tally.add(0.4) for _ in range(5)] == [False, True, True, True, True]
