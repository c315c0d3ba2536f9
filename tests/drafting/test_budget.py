"""The cost curve, and what a step should carry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medusa_apar.drafters.drafter import Beam
from medusa_apar.drafting import budget as budget_module
from medusa_apar.drafting.budget import MEASURED_NODES, CostCurve, FixedBudget, MeasuredBudget, StepCost
from medusa_apar.drafting.cost_cache import cached_cost


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


TREE = Beam(levels=4, width=4)
PATH = Beam(levels=4, width=1)
SHORT = Beam(levels=2, width=4)
FREE = CostCurve.through((1, 64), (0.0, 0.0))


def expected(*likely: float) -> np.ndarray:
    """That the best tokens of the first levels are accepted, and no others."""
    return np.pad(np.array(likely)[:, None], ((0, TREE.levels - len(likely)), (0, TREE.width - 1)))


def budget(nodes: tuple[int, ...], seconds: tuple[float, ...], heads: float = 0.0) -> MeasuredBudget:
    drafting = CostCurve.through((1, 64), (heads, heads))
    return MeasuredBudget(StepCost(CostCurve.through(nodes, seconds), {TREE: drafting}))


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


def test_drafting_is_skipped_where_it_does_not_pay_and_is_probed_again() -> None:
    idle = budget((1, 64), (1.0, 1.0), heads=0.5)
    assert idle.shape(1, expected(1.0)) == TREE
    asked = [idle.shape(1, expected(0.0)) for _ in range(3 * MeasuredBudget.PROBE_INTERVAL)]
    assert set(asked) == {None, TREE}
    assert 1 <= asked.count(TREE) <= 3
    late = [idle.shape(1, expected(0.0)) for _ in range(10 * MeasuredBudget.LONGEST_INTERVAL)]
    assert 8 <= late.count(TREE) <= 12, "the longer it is in vain, the more rarely it is tried"
    assert all(idle.shape(1, expected(1.0)) == TREE for _ in range(10))


def test_where_nothing_is_known_all_is_guessed() -> None:
    assert budget((1, 64), (1.0, 64.0), heads=9.0).shape(1, None) == TREE


def test_behind_many_threads_the_heads_draft_single_paths() -> None:
    """Where whole trees would take more of the step than they give."""
    forward = CostCurve.through((1, 64), (1.0, 1.0))
    trees, paths = CostCurve.through((1, 9), (0.1, 0.9)), CostCurve.through((1, 9), (0.1, 0.1))
    mixed = MeasuredBudget(StepCost(forward, {TREE: trees, PATH: paths}))
    some = np.array([[0.5, 0.2, 0.0, 0.0], [0.2, 0.1, 0.0, 0.0], [0.0] * 4, [0.0] * 4])
    assert mixed.shape(1, some) == TREE, "1.9 tokens in 1.1"
    assert mixed.shape(9, some) == PATH, "1.7 tokens in 1.1, and 2.0 in 1.9"
    for _ in range(90):
        mixed.record(slots=256, host_seconds=9.0)
    assert mixed.shape(9, some) == TREE, "2.0 tokens in 10.9, and 1.7 in 10.1"


def test_tokens_far_ahead_are_left_out_where_they_are_seldom_accepted() -> None:
    """And all are drafted again now and then, ever more rarely while that is in vain."""
    forward = CostCurve.through((1, 64), (1.0, 1.0))
    deep, short = CostCurve.through((1, 9), (0.4, 0.4)), CostCurve.through((1, 9), (0.2, 0.2))
    both = MeasuredBudget(StepCost(forward, {TREE: deep, SHORT: short}))
    assert both.shape(1, expected(0.9, 0.8, 0.7, 0.6)) == TREE, "4.0 tokens in 1.4, and 2.7 in 1.2"
    asked = [both.shape(1, expected(0.5, 0.2, 0.1, 0.05)) for _ in range(MeasuredBudget.LONGEST_INTERVAL)]
    assert asked[0] == SHORT, "1.7 tokens in 1.2, and 1.85 in 1.4"
    assert set(asked) == {SHORT, TREE}
    assert 2 <= asked.count(TREE) <= 4
    assert both.shape(1, expected(0.9, 0.8, 0.7, 0.6)) == TREE


def test_drafting_pays_by_as_many_tokens_as_fit() -> None:
    """What is expected with the nodes that these threads can afford, not with those of the steps before."""
    rising = budget((1, 9, 64), (1.0, 1.1, 9.0), heads=0.5)
    assert rising.shape(1, expected(0.4, 0.3, 0.2, 0.1)) == TREE
    assert rising.shape(1, expected(0.4)) is None
    assert rising.shape(9, expected(0.4, 0.3, 0.2, 0.1)) is None


def test_time_on_the_host_is_learnt() -> None:
    """It is paid with and without drafting, and so speaks for drafting."""
    shape = (1, 2, 64), (1.0, 1.6, 9.0)
    learning = budget(*shape)
    assert learning.cut(1, np.array([0.5])) == 0
    for _ in range(60):
        learning.record(slots=256, host_seconds=1.0)
    assert learning.cut(1, np.array([0.5])) == 1


def test_attention_over_many_slots_is_paid_by_every_node() -> None:
    """And so speaks against drafting, be the slots a long context or padding for a pool with more nodes."""
    flat = CostCurve.through((1, 64), (1.0, 1.0))
    long = MeasuredBudget(StepCost(flat, {TREE: FREE}, slots=320, per_pair=0.001))
    assert long.cut(1, np.array([0.4, 0.3, 0.2])) == 3
    assert long.shape(1, expected(0.4)) == TREE
    long.record(slots=320, host_seconds=0.0)
    assert long.cut(1, np.array([0.4, 0.3, 0.2])) == 3
    long.record(slots=2320, host_seconds=0.0)
    assert long.cut(1, np.array([0.4, 0.3, 0.2])) == 0, "a node costs two steps"
    assert long.shape(1, expected(0.4)) is None


def test_measured_costs_are_kept_and_broken_files_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MEDUSA_APAR_CACHE", str(tmp_path))
    drafting = {TREE: CostCurve((0.0, 2.0)), PATH: CostCurve((0.0, 1.5))}
    cost = StepCost(CostCurve((0.0, 1.0)), drafting, slots=320, per_pair=1e-8)
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
    cost = StepCost(CostCurve((0.0, 1.0)), {TREE: CostCurve((0.0, 2.0))})
    calls = []

    def measure() -> StepCost:
        calls.append(1)
        return cost

    assert [cached_cost({}, measure) for _ in range(2)] == [cost, cost]
    assert len(calls) == 1
    assert "each process measures them" in caplog.text
