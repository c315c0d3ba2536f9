"""Requests on pools that keep paths: the same answers, and less prefill."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

import numpy as np
import pytest

from medusa_apar import MedusaAparModel
from medusa_apar.engine.engine import Engine
from medusa_apar.engine.state import Request
from medusa_apar.heads import DraftHeads
from medusa_apar.kv_cache.prefix_cache import PrefixCachingPool

from ..conftest import forking_backbone, random_eagle3_heads, random_heads, random_sequential_heads
from .test_engine import alone, answer, engine_of, request

SYSTEM = [Random(0).randrange(5, 60) for _ in range(70)]


def conversation(random: Random, earlier: list[Request]) -> list[int]:
    """A prompt: a new one, one after the same system prompt, or one that goes on after an earlier answer."""
    own = [random.randrange(5, 60) for _ in range(random.randint(1, 6))]
    if earlier and random.random() < 0.5:
        before = random.choice(earlier)
        return [*before.context, *answer(before), *own]
    return [*SYSTEM, *own] if random.random() < 0.7 else own


def check(engine: Engine, requests: Iterable[Request] = ()) -> None:
    for live in (live for each in requests for live in each.live):
        assert live.computed == np.count_nonzero(live.pool.visible[live.row]), "a thread miscounts its slots"
    for pool in engine.pools:
        assert pool.held == np.count_nonzero(pool.visible.any(axis=0)), "a slot is held that no row sees"
        assert pool.free + pool.held == pool.capacity <= pool.max_slots


@pytest.mark.parametrize(
    ("pools", "max_slots"),
    [(1, 420), (4, 4096), *(pytest.param(*more, marks=pytest.mark.integration) for more in ((4, 420), (1, 4096)))],
)
@pytest.mark.parametrize("make_heads", [random_heads, random_sequential_heads, random_eagle3_heads])
def test_answers_are_those_that_requests_get_alone(
    make_heads: Callable[..., DraftHeads], pools: int, max_slots: int
) -> None:
    backbone = forking_backbone(seed=3)
    model = MedusaAparModel(backbone, make_heads(backbone))
    random, numbers = Random(1), dict[Request, int]()
    with engine_of(model, pools * max_slots, pools, PrefixCachingPool) as engine:
        assert len(engine.pools) == pools
        for number in range(10):
            ended = [each for each in numbers if not each.live]
            asked = request(number, limit=16, prompt=conversation(random, ended))
            numbers[asked] = number
            engine.add(asked)
            for _ in range(random.randint(1, 12)):
                engine.step()
                check(engine, numbers)
        while engine.busy:
            engine.step()
    assert sum(asked.cached_tokens for asked in numbers) > 200
    for asked, number in numbers.items():
        assert answer(asked) == alone(model, number, limit=16, prompt=asked.context)


@pytest.fixture(scope="module")
def model() -> MedusaAparModel:
    backbone = forking_backbone(seed=3)
    return MedusaAparModel(backbone, random_heads(backbone))


def run(engine: Engine, *requests: Request) -> None:
    for each in requests:
        engine.add(each)
    while engine.busy:
        engine.step()


def test_a_second_turn_begins_after_the_first_answer(model: MedusaAparModel) -> None:
    first = request(0, prompt=SYSTEM)  # of depth 1, which does not fork
    with engine_of(model, kind=PrefixCachingPool) as engine:
        run(engine, first)
        written = [*SYSTEM, *answer(first)]
        second = request(0, prompt=[*written, 7, 8])
        run(engine, second)
    assert second.cached_tokens >= len(written) - 1


def test_of_an_answer_that_forked_the_tokens_before_its_fork_are_shared(model: MedusaAparModel) -> None:
    first = request(1, prompt=SYSTEM)
    with engine_of(model, kind=PrefixCachingPool) as engine:
        run(engine, first)
        fork = first.tree.threads[1].own_start - 1
        second = request(1, prompt=[*first.tree.threads[0].token_ids[: fork + 3], 7])
        run(engine, second)
    assert second.cached_tokens == fork


def test_prompts_of_running_requests_are_shared(model: MedusaAparModel) -> None:
    first, second = request(0, prompt=[*SYSTEM, 9]), request(1, prompt=[*SYSTEM, 10])
    with engine_of(model, kind=PrefixCachingPool) as engine:
        engine.add(first)
        engine.step()
        run(engine, second)
    assert second.cached_tokens == len(SYSTEM)
    assert answer(second) == alone(model, 1, prompt=[*SYSTEM, 10])


def test_a_cancelled_request_leaves_its_prompt(model: MedusaAparModel) -> None:
    cancelled, second = request(0, prompt=SYSTEM), request(0, prompt=[*SYSTEM, 10])
    with engine_of(model, kind=PrefixCachingPool) as engine:
        engine.add(cancelled)
        engine.step()
        engine.cancel(cancelled)
        check(engine)
        run(engine, second)
    assert second.cached_tokens == len(SYSTEM)


def test_a_conversation_returns_to_its_pool(model: MedusaAparModel) -> None:
    prompts = [[start, *SYSTEM] for start in (5, 6, 7)]
    with engine_of(model, requests=4, kind=PrefixCachingPool) as engine:
        firsts = [request(0, prompt=prompt) for prompt in prompts]
        for each in firsts:
            run(engine, each)
        assert len({each.pool.index for each in firsts}) == 3, "idle pools are taken in turn"
        for first, prompt in zip(firsts, prompts, strict=True):
            again = request(0, prompt=[*prompt, 9])
            run(engine, again)
            assert (again.pool, again.cached_tokens) == (first.pool, len(prompt))


@pytest.mark.parametrize("pools", [1, 4])
@pytest.mark.parametrize("make_heads", [random_heads, random_sequential_heads, random_eagle3_heads])
def test_a_prompt_that_is_asked_several_times_at_once_is_computed_once(
    make_heads: Callable[..., DraftHeads], pools: int
) -> None:
    backbone = forking_backbone(seed=3)
    model = MedusaAparModel(backbone, make_heads(backbone))
    copies = [request(number, limit=16, prompt=SYSTEM) for number in range(4)]
    with engine_of(model, requests=pools, kind=PrefixCachingPool) as engine:
        run(engine, *copies)
        check(engine)
    assert [copy.cached_tokens for copy in copies] == [0, 69, 69, 69]
    assert len({copy.pool.index for copy in copies}) == pools
    for number, copy in enumerate(copies):
        assert answer(copy) == alone(model, number, limit=16, prompt=SYSTEM)


def test_a_request_waits_only_for_tokens_that_are_worth_it(model: MedusaAparModel) -> None:
    first, like_it, other = (request(0, prompt=prompt) for prompt in ([*SYSTEM, 9], [*SYSTEM, 10], [*SYSTEM[:40], 9]))
    with engine_of(model, kind=PrefixCachingPool) as engine:
        for each in (first, like_it, other):
            engine.add(each)
        assert engine.step() == [first, other]
        assert engine.step() == [like_it]
        assert like_it.cached_tokens == len(SYSTEM)


@pytest.mark.parametrize("cancelled", [0, 1])
def test_who_waits_for_a_cancelled_prompt_begins_and_who_is_cancelled_does_not(
    model: MedusaAparModel, cancelled: int
) -> None:
    long = [Random(1).randrange(5, 60) for _ in range(150)]
    with pytest.MonkeyPatch.context() as patch, engine_of(model, kind=PrefixCachingPool) as engine:
        patch.setattr("medusa_apar.engine.prefill.CHUNK", 32)
        requests = [request(number, limit=4, prompt=[*long, number]) for number in (5, 6)]
        for each in requests:
            engine.add(each)
        engine.step()
        assert requests[1].live == []
        engine.cancel(requests.pop(cancelled))
        (left,) = requests
        run(engine)
        check(engine)
    assert answer(left) == alone(model, left.context[-1], limit=4, prompt=left.context)


def test_pools_that_keep_nothing_let_nobody_wait(model: MedusaAparModel) -> None:
    copies = [request(number, prompt=SYSTEM) for number in range(4)]
    with engine_of(model) as engine:
        for copy in copies:
            engine.add(copy)
        assert engine.step() == copies
