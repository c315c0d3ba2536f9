"""Answers from our own decoder: those of `generate`, alone or beside others."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from threading import Event
from time import sleep

import pytest
from transformers import PreTrainedModel

from medusa_apar import MedusaAparModel
from medusa_apar.engine.engine import Engine
from medusa_apar.engine.state import Request
from medusa_apar.runner.model_runner import ModelRunner
from medusa_apar.serving.engines.native import NativeAnswerer
from medusa_apar.serving.engines.text_engine import EngineError
from medusa_apar.serving.requests import AnswerRequest, Sampling
from medusa_apar.serving.served_model import ServedModel
from medusa_apar.serving.snapshots import Snapshot

from .test_orchestrator import answers, generated, prompts


@pytest.fixture
def native(model: MedusaAparModel, served: ServedModel) -> Iterator[NativeAnswerer]:
    answerer = NativeAnswerer(model, served, max_batch=4)
    yield answerer
    asyncio.run(answerer.close())


def requests(limit: int = 60, count: int = 9, **values: object) -> list[AnswerRequest]:
    return [AnswerRequest(prompt, limit, max_depth=2, **values) for prompt in prompts(count)]  # type: ignore[arg-type]


def test_answers_are_those_of_generate_with_more_requests_than_places(
    native: NativeAnswerer, model: MedusaAparModel
) -> None:
    asked = requests()
    for request, answer in zip(asked, answers(native, *asked), strict=True):
        assert answer.readable == generated(model, request)
        assert answer.finish_reason == ("length" if answer.tokens == 60 else "stop")


def test_requests_of_several_limits_and_depths(native: NativeAnswerer, model: MedusaAparModel) -> None:
    asked = [
        AnswerRequest(prompt, limit, max_depth=depth)
        for prompt, limit, depth in zip(prompts(6), (1, 5, 30, 80, 80, 30), (1, 2, 2, 3, 1, 2), strict=True)
    ]
    for request, answer in zip(asked, answers(native, *asked), strict=True):
        assert answer.readable == generated(model, request)


def test_a_seed_draws_the_same_answer_alone_and_beside_others(native: NativeAnswerer) -> None:
    asked = requests(sampling=Sampling(temperature=0.9, top_p=0.95, seed=3))
    together = [answer.readable for answer in answers(native, *asked)]
    alone = [answers(native, request)[0].readable for request in asked]
    assert together == alone
    others = requests(sampling=Sampling(temperature=0.9, top_p=0.95, seed=4))
    assert [answer.readable for answer in answers(native, *others)] != alone


def test_each_request_forks_under_its_own_bias(native: NativeAnswerer, model: MedusaAparModel) -> None:
    biases = (None, -100.0, 2.0)
    asked = [request for bias in biases for request in requests(20, 5, sampling=Sampling(fork_bias=bias))]
    found = answers(native, *asked)
    threads: Counter[float | None] = Counter()
    for request, answer in zip(asked, found, strict=True):
        assert answer.readable == generated(model, request)
        threads[request.sampling.fork_bias] += answer.threads
    assert threads[-100.0] == 5 < threads[None] < threads[2.0]


SAMPLINGS = (
    Sampling(),
    Sampling(repetition_penalty=1.5),
    Sampling(temperature=0.7, seed=1),
    Sampling(temperature=0.7, seed=2),
    Sampling(temperature=1.3, top_k=5, min_p=0.1, seed=3),
    Sampling(temperature=1.0, top_p=0.8, seed=4),
    Sampling(temperature=0.9, top_p=0.95, repetition_penalty=1.2, seed=5),
    Sampling(temperature=2.0, top_k=20, top_p=0.9, seed=6),
)


def test_requests_of_any_sampling_depth_and_thread_limit_share_steps(
    model: MedusaAparModel, served: ServedModel
) -> None:
    asked = [
        AnswerRequest(prompt, 24, max_depth=1 + at % 3, max_threads=1 + at % 4, sampling=SAMPLINGS[at % 8])
        for at, prompt in enumerate(prompts(64))
    ]
    together, alone = (NativeAnswerer(model, served, max_batch=batch) for batch in (64, 1))
    try:
        found = answers(together, *asked)
        for request, answer in zip(asked, found, strict=True):
            assert answer.readable == answers(alone, request)[0].readable
    finally:
        asyncio.run(together.close())
        asyncio.run(alone.close())


def test_another_sampling_does_not_wait(
    model: MedusaAparModel, served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first token of the last arrival comes soon, beside requests of another sampling."""
    native = NativeAnswerer(model, served, max_batch=8)
    steps, step = [0], Engine.step

    def counted(self: Engine) -> list[Request]:
        steps[0] += 1
        return step(self)

    monkeypatch.setattr(Engine, "step", counted)

    async def run() -> int:
        running = [
            native.answer(AnswerRequest(prompt, 100_000, max_depth=1, sampling=Sampling(temperature=5.0, seed=at)))
            for at, prompt in enumerate(prompts(6))
        ]
        for answer in running:
            await anext(answer)
        asked_at = steps[0]
        last = native.answer(AnswerRequest(prompts(1)[0], 5, max_depth=1, sampling=Sampling(temperature=0.3, seed=0)))
        await anext(last)
        waited = steps[0] - asked_at
        for answer in (*running, last):
            await answer.aclose()
        return waited

    waited = asyncio.run(run())
    asyncio.run(native.close())
    assert waited < 50


def test_no_path_is_longer_than_what_is_served(model: MedusaAparModel, served: ServedModel) -> None:
    native = NativeAnswerer(model, replace(served, context_length=20), max_batch=2)
    asked = [
        AnswerRequest(prompt, 100, max_depth=1, sampling=Sampling(temperature=5.0, seed=0)) for prompt in prompts(9)
    ]
    found = answers(native, *asked)
    asyncio.run(native.close())
    lengths = [len(request.prompt_token_ids) + len(each.readable) for request, each in zip(asked, found, strict=True)]
    assert max(lengths) == 20
    assert {each.finish_reason for each, length in zip(found, lengths, strict=True) if length == 20} == {"length"}


def test_penalties_hold(native: NativeAnswerer, backbone: PreTrainedModel) -> None:
    plain, penalised = requests(40), requests(40, sampling=Sampling(repetition_penalty=50.0))

    def repeats(found: list[Snapshot]) -> int:
        return sum(len(each.readable) - len(set(each.readable)) for each in found)

    assert repeats(answers(native, *penalised)) < repeats(answers(native, *plain))


def test_an_answer_that_nobody_waits_for_makes_room(native: NativeAnswerer, model: MedusaAparModel) -> None:
    endless = AnswerRequest(prompts(1)[0], 100_000, max_depth=1, sampling=Sampling(temperature=5.0, seed=0))

    async def run() -> Snapshot:
        for _ in range(6):  # more than there are places
            answer = native.answer(endless)
            await anext(answer)
            await answer.aclose()
        return [snapshot async for snapshot in native.answer(requests()[0])][-1]

    assert asyncio.run(run()).readable == generated(model, requests()[0])


def test_a_failure_ends_the_answers_of_its_batch_and_no_others(
    native: NativeAnswerer, model: MedusaAparModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(ModelRunner, "forward", lambda *_: 1 / 0)
        with pytest.raises(EngineError, match="decoding failed with ZeroDivisionError"):
            answers(native, requests()[0])
    assert answers(native, requests()[0])[0].readable == generated(model, requests()[0])


def test_when_it_closes_answers_end_with_an_error(
    model: MedusaAparModel, served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = NativeAnswerer(model, served, max_batch=2)
    step = Engine.step

    def slow_step(self: Engine) -> list[Request]:
        sleep(0.02)  # so that it is still writing when it is closed
        return step(self)

    monkeypatch.setattr(Engine, "step", slow_step)
    endless = AnswerRequest(prompts(1)[0], 100_000, max_depth=1, sampling=Sampling(temperature=5.0, seed=0))

    async def run() -> None:
        answer = native.answer(endless)
        await anext(answer)
        closing = asyncio.create_task(native.close())
        with pytest.raises(EngineError, match="shutting down"):
            async for _ in answer:
                pass
        await closing
        with pytest.raises(EngineError, match="shutting down"):
            await anext(native.answer(endless))
        with pytest.raises(EngineError, match="restart"):
            await native.check()

    asyncio.run(run())


def test_a_failure_before_a_batch_has_begun_ends_the_answers_that_it_was_for(
    native: NativeAnswerer, model: MedusaAparModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("medusa_apar.serving.engines.native.measured_budget", lambda *_: 1 / 0)
        with pytest.raises(EngineError, match="decoding failed with ZeroDivisionError"):
            answers(native, *requests())
    assert answers(native, requests()[0])[0].readable == generated(model, requests()[0])


def test_decoding_that_stalls_ends_answers_with_an_error(
    model: MedusaAparModel, served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    native, held = NativeAnswerer(model, served, max_batch=2, timeout=0.3), Event()
    answers(native, requests()[0])
    with monkeypatch.context() as slow:
        step = Engine.step
        slow.setattr(Engine, "step", lambda engine: held.wait(20) and step(engine))
        with pytest.raises(EngineError, match=r"nothing was decoded for 0\.3 s; restart the server"):
            answers(native, requests()[0])
        held.set()
        asyncio.run(native.close())


def test_a_second_turn_finds_the_first_one_computed(model: MedusaAparModel, served: ServedModel) -> None:
    first = AnswerRequest(prompts(1)[0] * 18, 30, max_depth=1)
    for caching in (True, False):
        native = NativeAnswerer(model, served, max_batch=2, prefix_caching=caching)
        turn = answers(native, first)[0]
        second = AnswerRequest([*first.prompt_token_ids, *turn.readable, 7, 8], 30, max_depth=1)
        again = answers(native, second)[0]
        asyncio.run(native.close())
        assert turn.cached_tokens == 0
        assert again.cached_tokens >= caching * (len(second.prompt_token_ids) - 3)
        assert caching or again.cached_tokens == 0
        assert again.readable == generated(model, second)


def test_nothing_is_kept_of_a_batch_that_failed(
    native: NativeAnswerer, model: MedusaAparModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = AnswerRequest(prompts(1)[0] * 18, 30, max_depth=1)
    assert answers(native, asked, asked)[0].readable == generated(model, asked)
    with monkeypatch.context() as broken:
        broken.setattr(ModelRunner, "forward", lambda *_: 1 / 0)
        with pytest.raises(EngineError, match="decoding failed with ZeroDivisionError"):
            answers(native, asked)
    again = answers(native, asked)[0]
    assert (again.cached_tokens, again.readable) == (0, generated(model, asked))
