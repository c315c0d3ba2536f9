"""The cost curve, and what a step should carry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medusa_apar import budget as budget_module
from medusa_apar.budget import MEASURED_NODES, CostCurve, FixedBudget, MeasuredBudget, StepCost
from medusa_apar.cost_cache import cached_cost
from medusa_apar.drafting import chain


def test_the_curve_never_falls_and_joins_its_points_by_lines() -> None:
    curve = CostCurve.through((1, 4, 8), (1.0, 4.0, 3.0))
    assert [curve(n) for n in (1, 2, 3, 4, 8)] == [1.0, 2.0, 3.0, 4.0, 4.0]


def test_beyond_what_was_measured_time_rises_in_proportion() -> None:
    assert CostCurve.through((1, 8), (1.0, 2.0))(32) == pytest.approx(8.0)


def test_measuring_times_every_size_after_a_warm_up() -> None:
    calls: list[int] = []
    curve = CostCurve.measure(calls.append, repeats=2)
    twice = [nodes for nodes in MEASURED_NODES for _ in range(2)]
    assert calls == [*MEASURED_NODES, *twice, *twice]
    assert curve(MEASURED_NODES[-1]) >= curve(1) > 0


def test_a_slow_model_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_module, "ENOUGH_SECONDS", 0.0)
    calls: list[int] = []
    CostCurve.measure(calls.append, repeats=5)
    assert calls == [*MEASURED_NODES, *(nodes for nodes in MEASURED_NODES for _ in range(2))]


def budget(nodes: tuple[int, ...], seconds: tuple[float, ...], heads: float = 0.0) -> MeasuredBudget:
    guesses = CostCurve.through((1, 64), (heads, heads))
    return MeasuredBudget(StepCost(CostCurve.through(nodes, seconds), guesses, guesses), levels=4)


def test_a_budget_carries_at_least_one_node() -> None:
    with pytest.raises(ValueError, match="nodes_per_step=0 is below 1"):
        FixedBudget(0)


def test_the_step_ends_behind_the_best_ratio_of_tokens_to_time() -> None:
    assert budget((1, 2, 3, 64), (1.0, 1.1, 3.0, 64.0)).cut(1, np.array([0.5, 0.5])) == 1


def test_a_step_looks_past_a_stair() -> None:
    assert budget((1, 2, 6, 64), (1.0, 1.6, 1.6, 9.0)).cut(1, np.full(5, 0.4)) == 5


def test_the_price_of_the_heads_is_part_of_the_step() -> None:
    """What is paid already makes further nodes look cheaper."""
    shape = (1, 2, 64), (1.0, 1.6, 9.0)
    assert budget(*shape).cut(1, np.array([0.5])) == 0
    assert budget(*shape, heads=1.0).cut(1, np.array([0.5])) == 1


def test_guessing_rests_where_it_does_not_pay_and_is_tried_again() -> None:
    idle = budget((1, 64), (1.0, 1.0), heads=0.5)
    assert idle.pays(1, np.array([1.0]))
    asked = [idle.pays(1, np.array([0.0])) for _ in range(3 * MeasuredBudget.REST)]
    assert 1 <= sum(asked) <= 3
    late = [idle.pays(1, np.array([0.0])) for _ in range(10 * MeasuredBudget.LONGEST_REST)]
    assert 8 <= sum(late) <= 12, "the longer it is in vain, the more rarely it is tried"
    assert all(idle.pays(1, np.array([1.0])) for _ in range(10))


def test_behind_many_threads_the_heads_guess_single_paths() -> None:
    """Where whole trees would take too much of the step beyond that."""
    forward = CostCurve.through((1, 64), (1.0, 1.0))
    trees, chains = CostCurve.through((1, 9), (0.1, 0.9)), CostCurve.through((1, 9), (0.1, 0.1))
    mixed = MeasuredBudget(StepCost(forward, trees, chains), levels=4)
    assert mixed.shape(2) is None, "0.1 of 1.2"
    assert mixed.shape(4) == chain(4), "0.3 of 1.4"
    assert mixed.pays(9, np.array([0.15])), "0.1 is paid and not 0.9"
    for _ in range(90):
        mixed.record(slots=256, rest=2.0)
    assert mixed.shape(4) is None, "0.3 of 3.4"


def test_guessing_pays_by_as_many_guesses_as_fit() -> None:
    """What is hoped for with the nodes that these threads can afford, not with those of the steps before."""
    rising = budget((1, 9, 64), (1.0, 1.1, 9.0), heads=0.5)
    hope = np.array([0.4, 0.3, 0.2, 0.1])
    assert rising.pays(1, hope)
    assert not rising.pays(1, hope[:1])
    assert not rising.pays(9, hope)


def test_time_on_the_host_is_learnt() -> None:
    """It is paid with and without guesses, and so speaks for guessing."""
    shape = (1, 2, 64), (1.0, 1.6, 9.0)
    learning = budget(*shape)
    assert learning.cut(1, np.array([0.5])) == 0
    for _ in range(60):
        learning.record(slots=256, rest=1.0)
    assert learning.cut(1, np.array([0.5])) == 1


def test_attention_over_many_slots_is_paid_by_every_node() -> None:
    """And so speaks against guessing, be the slots a long context or padding for a pool with more nodes."""
    flat, free = CostCurve.through((1, 64), (1.0, 1.0)), CostCurve.through((1, 64), (0.0, 0.0))
    long = MeasuredBudget(StepCost(flat, free, free, slots=320, per_pair=0.001), levels=4)
    assert long.cut(1, np.array([0.4, 0.3, 0.2])) == 3
    assert long.pays(1, np.array([0.4]))
    long.record(slots=320, rest=0.0)
    assert long.cut(1, np.array([0.4, 0.3, 0.2])) == 3
    long.record(slots=2320, rest=0.0)
    assert long.cut(1, np.array([0.4, 0.3, 0.2])) == 0, "a node costs two steps"
    assert not long.pays(1, np.array([0.4]))


def test_measured_costs_are_kept_and_broken_files_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MEDUSA_APAR_CACHE", str(tmp_path))
    cost = StepCost(CostCurve((0.0, 1.0)), CostCurve((0.0, 2.0)), CostCurve((0.0, 1.5)), slots=320, per_pair=1e-8)
    calls = []

    def measure() -> StepCost:
        calls.append(1)
        return cost

    assert [cached_cost({"model": "a"}, measure) for _ in range(2)] == [cost, cost]
    assert len(calls) == 1
    cached_cost({"model": "b"}, measure)
    assert len(calls) == 2
    for file in tmp_path.iterdir():
        file.write_text("{")
    cached_cost({"model": "a"}, measure)
    assert len(calls) == 3
    assert "are measured again" in caplog.text


def test_a_cache_that_cannot_be_written_is_no_error_and_costs_are_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("MEDUSA_APAR_CACHE", str(blocked / "below"))
    cost = StepCost(CostCurve((0.0, 1.0)), CostCurve((0.0, 2.0)), CostCurve((0.0, 1.5)))
    calls = []

    def measure() -> StepCost:
        calls.append(1)
        return cost

    assert [cached_cost({}, measure) for _ in range(2)] == [cost, cost]
    assert len(calls) == 1
    assert "each process measures them" in caplog.text
