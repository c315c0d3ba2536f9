"""The engine: requests of any parameters share steps, join when they like, and leave at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
)

from medusa_apar import MedusaAparModel, ParagraphTree
from medusa_apar.drafting.budget import FixedBudget
from medusa_apar.engine.engine import Engine
from medusa_apar.engine.pools import PoolPlan
from medusa_apar.engine.state import Request
from medusa_apar.kv_cache.slot_pool import SlotPool
from medusa_apar.sampling.randomness import root_key
from medusa_apar.sampling.sampler import Sampler
from medusa_apar.sampling.verification import Acceptance, TypicalAcceptance, accept_exactly

from ..conftest import CONTROL, EOS, forking_backbone, random_heads

LIMIT = 40
PROCESSORS: tuple[tuple[list[Any], bool], ...] = (
    ([], False),
    ([RepetitionPenaltyLogitsProcessor(1.5)], False),
    ([TemperatureLogitsWarper(0.8)], True),
    ([RepetitionPenaltyLogitsProcessor(1.2), TemperatureLogitsWarper(1.5), TopKLogitsWarper(8)], True),
)


@pytest.fixture(scope="module")
def model() -> MedusaAparModel:
    backbone = forking_backbone(seed=3)
    return MedusaAparModel(backbone, random_heads(backbone))


@contextmanager
def engine_of(
    model: MedusaAparModel, max_slots: int = 4096, requests: int = 1, kind: type[SlotPool] = SlotPool
) -> Iterator[Engine]:
    with torch.inference_mode(), model.decoding() as (backbone, drafter):
        engine = Engine(
            backbone, drafter, CONTROL,
            budget=FixedBudget(24, drafter.beams[0] if drafter else None),
            pools=PoolPlan(backbone, max_slots, kind).pools(requests, longest=200),
            context_length=backbone.context_length,
        )  # fmt: skip
        yield engine
        engine.close()


def request(
    number: int, limit: int = LIMIT, acceptance: Acceptance = accept_exactly, prompt: list[int] | None = None
) -> Request:
    """One of many, with other processors, depth and thread limit than the next."""
    random = Random(number)
    prompt = prompt or [random.randrange(5, 60) for _ in range(random.randint(2, 9))]
    processors, sample = PROCESSORS[number % len(PROCESSORS)]
    return Request(
        tree=ParagraphTree.of_prompt(prompt, CONTROL, 3),
        context=prompt,
        limit=limit,
        key=root_key(number, prompt, 0),
        sampler=Sampler.of_batch(
            LogitsProcessorList(processors), 1, CONTROL, sample=sample, device=torch.device("cpu")
        )[0],
        acceptance=acceptance,
        eos_token_ids=frozenset({EOS}),
        max_depth=1 + number % 3,
        max_threads=1 + number % 4,
    )


def answer(asked: Request) -> list[int]:
    return asked.tree.trimmed(asked.limit, asked.cut_reason).answer_token_ids()


def alone(model: MedusaAparModel, number: int, **values: Any) -> list[int]:
    asked = request(number, **values)
    with engine_of(model) as engine:
        engine.add(asked)
        while engine.busy:
            engine.step()
    return answer(asked)


@pytest.mark.parametrize("pools", [1, 12])
def test_requests_of_any_parameters_share_steps_and_answer_as_alone(model: MedusaAparModel, pools: int) -> None:
    asked = [request(number) for number in range(12)]
    with engine_of(model, requests=pools) as engine:
        for each in asked:
            engine.add(each)
        while engine.busy:
            engine.step()
        assert engine.metrics.stats.steps < 12 * LIMIT
    assert [answer(each) for each in asked] == [alone(model, number) for number in range(12)]


def test_requests_join_whenever_they_come(model: MedusaAparModel) -> None:
    asked = [request(number) for number in range(6)]
    waiting = list(asked)
    with engine_of(model) as engine:
        while waiting or engine.busy:
            if waiting:
                engine.add(waiting.pop(0))
            for _ in range(3):
                engine.step()
    assert [answer(each) for each in asked] == [alone(model, number) for number in range(6)]


def test_a_lossy_request_does_not_change_a_lossless_one(model: MedusaAparModel) -> None:
    lossy, exact = request(2, acceptance=TypicalAcceptance(0.01, 0.5)), request(3)
    with engine_of(model) as engine:
        engine.add(lossy)
        engine.add(exact)
        while engine.busy:
            engine.step()
    assert answer(exact) == alone(model, 3)
    assert answer(lossy) == alone(model, 2, acceptance=TypicalAcceptance(0.01, 0.5))


def test_a_cancelled_request_has_freed_its_slots_before_the_next_step(model: MedusaAparModel) -> None:
    kept, cancelled = request(0), request(3, limit=10_000)
    with engine_of(model) as engine:
        engine.add(cancelled)
        engine.add(kept)
        for _ in range(8):
            engine.step()
        (pool,) = engine.pools
        held = pool.held
        engine.cancel(cancelled)
        assert pool.held < held
        assert cancelled not in engine.step()
        while engine.busy:
            engine.step()
        assert pool.held == 0
    assert answer(kept) == alone(model, 0)


def test_a_step_tells_who_took_part_and_who_has_ended(model: MedusaAparModel) -> None:
    short, long = request(0, limit=3), request(1)
    ended: list[Request] = []
    with engine_of(model) as engine:
        engine.add(short)
        engine.add(long)
        assert set(engine.step()) == {short, long}
        while engine.busy:
            ended += [each for each in engine.step() if not each.live]
    assert ended == [short, long]


def test_an_idle_engine_does_nothing(model: MedusaAparModel) -> None:
    with engine_of(model) as engine:
        assert not engine.busy
        assert engine.step() == []
        assert engine.metrics.stats.steps == 0
