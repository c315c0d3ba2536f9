"""Plans fit the budget: what stages are estimated to take together is what there is."""

from __future__ import annotations

import pytest

from medusa_apar.train.command_line import InputError
from medusa_apar.train.tune.plan import FEWEST, MOST, Planner, Training, duration
from medusa_apar.train.tune.rates import Rates

LAPTOP = Rates(answering=100.0, forking=130.0, drafting=350.0)


def rows(training: Training) -> int:
    return training.steps * training.accumulation


def planner(hours: float, rates: Rates = LAPTOP, processes: int = 1) -> Planner:
    return Planner(rates=rates, budget=3600 * hours, max_new_tokens=512, max_length=1024, processes=processes)


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("hours", [1.0, 8.0, 24.0])
def test_the_stages_together_take_the_budget(hours: float, written: bool) -> None:
    plan = planner(hours)
    count = plan.questions(written=written)
    spent = written * plan.writing_seconds(count) + plan.answering_seconds(count)
    tokens = int(count * 400)
    backbone = plan.backbone(tokens, spent)
    spent += backbone.seconds
    own = plan.own_answers(count, spent)
    assert 0 < own <= count
    heads = plan.heads(tokens, own, spent)
    spent += heads.seconds
    spent += plan.measuring_seconds(plan.measured(1000, spent))
    assert 0.8 * plan.budget < spent < 1.1 * plan.budget


def test_more_time_means_more_of_everything() -> None:
    short, long = planner(2.0), planner(8.0)
    assert short.questions(written=True) < long.questions(written=True)
    assert rows(short.backbone(10**9, 0)) < rows(long.backbone(10**9, 0))
    assert rows(short.heads(10**9, 100, 0)) < rows(long.heads(10**9, 100, 0))
    assert short.measured(1000, 0.97 * short.budget) < long.measured(1000, 0.97 * long.budget)


def test_little_text_is_not_read_over_and_over() -> None:
    plan = planner(100.0)
    assert plan.backbone(50 * 1024, 0).steps == 150
    assert plan.heads(50 * 1024, 0, 0).steps == 400
    assert plan.backbone(1024, 0).steps == plan.heads(1024, 0, 0).steps == 100
    assert plan.measured(3, 0) == 3


def test_a_long_training_takes_larger_steps() -> None:
    fast = Rates(answering=10_000, forking=10_000, drafting=30_000)
    training = planner(8.0, fast).backbone(10**9, 0)
    assert training.accumulation > 1
    assert training.steps <= 600


def test_processes_share_a_step() -> None:
    one, four = planner(8.0).backbone(10**9, 0), planner(8.0, processes=4).backbone(10**9, 0)
    assert rows(one) == pytest.approx(rows(four), rel=0.01)


def test_a_plan_has_bounds() -> None:
    assert planner(10_000.0).questions(written=True) == MOST
    with pytest.raises(InputError, match=r"--budget_hours 0.01 allows for \d questions .*; give 0\.\d or more"):
        planner(0.01).questions(written=True)


def test_the_remedy_for_a_short_budget_holds() -> None:
    with pytest.raises(InputError) as error:
        planner(0.02).questions(written=True)
    remedy = float(str(error.value).rpartition("give ")[2].split()[0])
    assert planner(remedy).questions(written=True) >= FEWEST


def test_later_stages_keep_a_part_when_earlier_ones_took_too_long() -> None:
    plan = planner(1.0)
    assert plan.backbone(10**6, 10 * plan.budget).steps >= 1
    assert plan.measured(100, 10 * plan.budget) >= 1


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (12_000, "3 h 20 min")]
)
def test_durations_are_said_as_people_do(seconds: float, said: str) -> None:
    assert duration(seconds) == said
