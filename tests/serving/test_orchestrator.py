"""Threads as requests of a plain engine: the answers of `generate`, whatever the engine's pace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from medusa_apar import MedusaAparModel
from medusa_apar.serving.engines.orchestrator import Orchestrator
from medusa_apar.serving.engines.text_engine import EngineError, ThreadRequest
from medusa_apar.serving.requests import AnswerRequest, Sampling
from medusa_apar.serving.served_model import ServedModel
from medusa_apar.serving.snapshots import Answerer, Snapshot

from ..conftest import CONTROL, EOS, VOCABULARY
from .oracle_engine import OracleEngine


async def last(answerer: Answerer, request: AnswerRequest) -> Snapshot:
    return [snapshot async for snapshot in answerer.answer(request)][-1]


def answers(answerer: Answerer, *requests: AnswerRequest) -> list[Snapshot]:
    """The last snapshot of each, all written at the same time."""

    async def run() -> list[Snapshot]:
        return await asyncio.gather(*(last(answerer, request) for request in requests))

    return asyncio.run(run())


def generated(model: MedusaAparModel, request: AnswerRequest) -> list[int]:
    prompt = torch.tensor([request.prompt_token_ids])
    output: Any = model.generate(
        prompt,
        max_new_tokens=request.max_new_tokens,
        max_depth=request.max_depth,
        fork_bias=request.sampling.fork_bias,
    )
    return output[0, prompt.shape[1] :].tolist()


def prompts(count: int) -> list[list[int]]:
    random = Random(1)
    return [[random.randrange(4, 64) for _ in range(random.randint(2, 9))] for _ in range(count)]


@pytest.mark.parametrize("limit", [1, 7, 40, 200])
def test_answers_are_those_of_generate(
    backbone: PreTrainedModel, model: MedusaAparModel, served: ServedModel, limit: int
) -> None:
    forks = 0
    for prompt in prompts(8)[-5 if limit < 200 else -1 :]:
        request = AnswerRequest(prompt, max_new_tokens=limit, max_depth=2)
        engine = OracleEngine(backbone)
        answer = answers(Orchestrator(engine, served), request)[0]
        assert answer.readable == generated(model, request)
        assert answer.tokens == len(answer.readable) <= limit
        assert engine.running == 0
        forks += answer.threads - 1
    assert limit == 1 or forks > 0


def test_without_depth_there_are_no_threads(
    backbone: PreTrainedModel, model: MedusaAparModel, served: ServedModel
) -> None:
    for prompt in prompts(3):
        request = AnswerRequest(prompt, max_new_tokens=30, max_depth=1)
        answer = answers(Orchestrator(OracleEngine(backbone), served), request)[0]
        assert answer.threads == 1
        assert answer.readable == generated(model, request)


@pytest.fixture(scope="session")
def many_threads(backbone: PreTrainedModel, served: ServedModel) -> AnswerRequest:
    """A request whose answer has at least four threads."""
    request = AnswerRequest(prompts(8)[-1], max_new_tokens=200, max_depth=2)
    assert answers(Orchestrator(OracleEngine(backbone), served), request)[0].threads >= 4
    return request


def test_a_childs_context_ends_at_its_fork_and_not_at_the_end_of_a_lump(
    backbone: PreTrainedModel, served: ServedModel, many_threads: AnswerRequest
) -> None:
    engine = OracleEngine(backbone)
    answers(Orchestrator(engine, served), many_threads)
    for asked in engine.asked[1:]:
        assert list(asked.prompt_token_ids[-2:]) == [2, 3], "[Fork] and [Child] end the context"
    assert [asked.bad_words for asked in engine.asked] == [["[Child]", "[Fork][Fork]"]] + [["[Child]", "[Fork]"]] * (
        len(engine.asked) - 1
    )
    assert len({asked.answer for asked in engine.asked}) == 1, "so that an engine finds their prefix"


@pytest.mark.parametrize(("asked", "due"), [(None, 0.25), (0.5, 0.5)])
def test_threads_that_may_fork_do_so_under_the_bias_of_the_request_or_the_model(
    backbone: PreTrainedModel, served: ServedModel, many_threads: AnswerRequest, asked: float | None, due: float
) -> None:
    assert served.control is not None
    engine = OracleEngine(backbone)
    biased = replace(served, control=replace(served.control, fork_bias=0.25))
    answers(Orchestrator(engine, biased), replace(many_threads, sampling=Sampling(fork_bias=asked)))
    root, *children = [thread.sampling.logit_bias for thread in engine.asked]
    assert root == ((served.control.fork_token_id, due),)
    assert children
    assert not any(children)


def test_threads_wait_for_each_other_where_only_some_may_write(
    backbone: PreTrainedModel, served: ServedModel, many_threads: AnswerRequest
) -> None:
    free, narrow = OracleEngine(backbone), OracleEngine(backbone)
    request = AnswerRequest(many_threads.prompt_token_ids, 200, max_depth=2, max_threads=2)
    expected = answers(Orchestrator(free, served), many_threads)[0]
    assert answers(Orchestrator(narrow, served), request)[0].readable == expected.readable
    assert free.most_running > 2 == narrow.most_running


def test_snapshots_grow_in_reading_order(
    backbone: PreTrainedModel, served: ServedModel, many_threads: AnswerRequest
) -> None:
    async def run() -> list[Snapshot]:
        return [snapshot async for snapshot in Orchestrator(OracleEngine(backbone), served).answer(many_threads)]

    snapshots = asyncio.run(run())
    whole = snapshots[-1].readable
    for before, after in pairwise(snapshots):
        assert after.readable[: len(before.readable)] == before.readable == whole[: len(before.readable)]
        assert before.finish_reason is None
    assert any(snapshot.running > 1 for snapshot in snapshots)
    assert snapshots[-1].running == 0


def test_a_closed_answer_ends_all_of_its_threads(
    backbone: PreTrainedModel, served: ServedModel, many_threads: AnswerRequest
) -> None:
    engine = OracleEngine(backbone, pause=0.001)

    async def run() -> int:
        answer = Orchestrator(engine, served).answer(many_threads)
        async for snapshot in answer:
            if snapshot.running > 1:
                break
        most = engine.running
        await answer.aclose()
        return most

    assert asyncio.run(run()) > 1
    assert engine.running == 0


def test_a_thread_that_fails_ends_the_answer_with_its_error(
    backbone: PreTrainedModel, served: ServedModel, many_threads: AnswerRequest
) -> None:
    engine = OracleEngine(backbone, fails_behind=6)
    with pytest.raises(EngineError, match="the engine has failed"):
        answers(Orchestrator(engine, served), many_threads)
    assert engine.running == 0


@pytest.mark.parametrize("token", [VOCABULARY, -1, CONTROL.child_token_id])
def test_a_token_that_the_model_cannot_write_ends_the_answer_with_an_error(
    backbone: PreTrainedModel, served: ServedModel, many_threads: AnswerRequest, token: int
) -> None:
    engine = OracleEngine(backbone, garbage=token)
    with pytest.raises(EngineError, match=f"the engine wrote token {token}, which 'tiny' cannot write"):
        answers(Orchestrator(engine, served), many_threads)
    assert engine.running == 0


def test_an_engine_that_stalls_ends_its_answers_with_an_error(
    backbone: PreTrainedModel, served: ServedModel, many_threads: AnswerRequest
) -> None:
    engine = OracleEngine(backbone, pause=60)
    with pytest.raises(EngineError, match=r"the engine has written nothing for 0\.1 seconds"):
        answers(Orchestrator(engine, served, timeout=0.1), many_threads)
    assert engine.running == 0


class OneAtATime(OracleEngine):
    """Writes twenty tokens in a second, and a thread only once the one before it has ended."""

    turn = asyncio.Semaphore(1)

    async def stream(self, request: ThreadRequest) -> AsyncGenerator[list[int]]:
        async with self.turn:
            for token in [5] * 19 + [EOS]:
                await asyncio.sleep(0.05)
                yield [token]


def test_an_answer_that_waits_while_others_grow_has_not_stalled(
    backbone: PreTrainedModel, served: ServedModel, many_threads: AnswerRequest
) -> None:
    start = time.monotonic()
    found = answers(Orchestrator(OneAtATime(backbone), served, timeout=0.8), *[many_threads] * 3)
    assert time.monotonic() - start > 2
    assert [answer.finish_reason for answer in found] == ["stop"] * 3


def test_threads_of_earlier_answers_go_first(
    backbone: PreTrainedModel, served: ServedModel, many_threads: AnswerRequest
) -> None:
    engine = OracleEngine(backbone)
    answers(Orchestrator(engine, served), many_threads, many_threads)
    places: dict[str, set[int]] = {}
    for asked in engine.asked:
        places.setdefault(asked.answer, set()).add(asked.priority)
    assert list(places.values()) == [{0}, {1}], "one place for all threads of an answer"


def test_every_thread_draws_with_a_seed_of_its_own(
    backbone: PreTrainedModel, served: ServedModel, many_threads: AnswerRequest
) -> None:
    request = AnswerRequest(many_threads.prompt_token_ids, 200, max_depth=2, sampling=Sampling(1.0, seed=7))
    seeds = []
    for _ in range(2):
        engine = OracleEngine(backbone)
        answers(Orchestrator(engine, served), request)
        seeds.append({(len(asked.prompt_token_ids), asked.sampling.seed) for asked in engine.asked})
    assert seeds[0] == seeds[1], "the same at every run"
    assert len({seed for _, seed in seeds[0]}) == len(engine.asked)


def test_answers_end_where_the_context_does(
    backbone: PreTrainedModel, model: MedusaAparModel, served: ServedModel
) -> None:
    random = Random(3)
    prompt = [random.randrange(4, 64) for _ in range(250)]
    request = AnswerRequest(prompt, max_new_tokens=100, max_depth=2)
    answer = answers(Orchestrator(OracleEngine(backbone), served), request)[0]
    assert answer.readable == generated(model, request)
