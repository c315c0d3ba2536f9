"""Pools that are only just large enough: threads wait or are preempted, and the answer is the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from medusa_apar import MedusaAparModel, MedusaAparOutput
from medusa_apar.engine.engine import Engine
from medusa_apar.engine.state import Request
from medusa_apar.heads import DraftHeads

from ..conftest import forking_backbone, random_eagle3_heads, random_heads, random_sequential_heads
from ..engine.test_lossless import LIMIT, MAX_DEPTH, batch, decode


def longest_path(prompt: int, limit: int, heads: int = 3) -> int:
    """Slots that `generate` wants at least: what its error message names."""
    return prompt + 2 * limit + MAX_DEPTH + heads + 2


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """Check the pools after every step; collects the engines that ran."""
    engines: list[Engine] = []
    step = Engine.step

    def check(self: Engine) -> list[Request]:
        if engines[-1:] != [self]:
            engines.append(self)
        requests = step(self)
        for pool in self.pools:
            assert pool.held == np.count_nonzero(pool.visible.any(axis=0)), "a slot is held that no thread sees"
            assert pool.free + pool.held == pool.capacity <= pool.max_slots
        for live in (live for request in requests for live in request.live):
            assert live.computed == np.count_nonzero(live.pool.visible[live.row]), "a thread miscounts its slots"
        return requests

    monkeypatch.setattr(Engine, "step", check)
    return engines


@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "seed": 4}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("max_threads", [1, 8])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_pool_that_is_only_just_large_enough_changes_nothing(
    family: str, max_threads: int, sampling: dict[str, Any], checked: list[Engine]
) -> None:
    backbone = forking_backbone(family, seed=3)
    model = MedusaAparModel(backbone, random_heads(backbone))
    _, ids, mask = batch(3, lengths=(5, 9, 3, 8, 6))
    options = {"max_threads": max_threads, "nodes_per_step": 24, **sampling}
    roomy = decode(model, ids, mask, **options)
    tight = decode(model, ids, mask, max_slots=longest_path(9, LIMIT), **options)
    assert torch.equal(roomy.sequences, tight.sequences)
    for ours, theirs in zip(roomy.trees or (), tight.trees or (), strict=True):
        assert sorted(t.token_ids for t in ours.threads) == sorted(t.token_ids for t in theirs.threads)
    assert tight.stats is not None
    assert tight.stats.peak_slots <= longest_path(9, LIMIT)
    assert not any(pool.held for pool in checked[-1].pools)


@pytest.mark.parametrize("make_heads", [random_heads, random_eagle3_heads])
def test_threads_are_preempted_when_the_first_one_has_no_room(
    checked: list[Engine], make_heads: Callable[..., DraftHeads]
) -> None:
    """Three rows that fork and a pool for hardly more than one of them."""
    backbone = forking_backbone(seed=3)
    model = MedusaAparModel(backbone, make_heads(backbone))
    _, ids, mask = batch(3, lengths=(40, 40, 40))
    options: dict[str, Any] = {"max_new_tokens": 20, "nodes_per_step": 16}
    tight = decode(model, ids, mask, max_slots=longest_path(40, 20), **options)
    assert tight.stats is not None
    assert tight.stats.preemptions > 0
    assert torch.equal(decode(model, ids, mask, **options).sequences, tight.sequences)


def test_a_pool_for_less_than_one_path_is_refused_before_decoding() -> None:
    backbone = forking_backbone(seed=0)
    model = MedusaAparModel(backbone, random_heads(backbone))
    _, ids, _ = batch(lengths=(5,))
    least = longest_path(5, LIMIT)
    decode(model, ids, max_slots=least)
    with pytest.raises(ValueError, match=f"max_slots={least - 1} is too small: .* may need {least} slots"):
        decode(model, ids, max_slots=least - 1)


class Fails(BaseStreamer):
    """A streamer that fails at its fifth token."""

    def __init__(self) -> None:
        self.calls = 0

    def put(self, value: Tensor) -> None:
        self.calls += 1
        if self.calls == 5:
            raise RuntimeError("the reader is gone")

    def end(self) -> None:
        pass


def test_a_streamer_that_fails_frees_the_pool(checked: list[Engine]) -> None:
    backbone = forking_backbone(seed=0)
    _, ids, _ = batch(lengths=(5,))
    with pytest.raises(RuntimeError, match="the reader is gone"):
        MedusaAparModel(backbone).generate(ids, max_new_tokens=40, streamer=Fails())
    assert not any(pool.held for pool in checked[-1].pools)


class CancelledError(Exception):
    """A user's own way out."""


class Cancels(StoppingCriteria):
    """A criterion that is met, or fails, when it is asked for the n-th time."""

    def __init__(self, calls: int, error: Exception | None = None) -> None:
        self.left = calls
        self.error = error

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.left -= 1
        if self.left <= 0 and self.error is not None:
            raise self.error
        return torch.full((len(input_ids),), self.left <= 0)


def test_a_criterion_may_cancel_between_tokens(checked: list[Engine]) -> None:
    """One that looks at something else than tokens is asked in every step; what is readable then is the answer."""
    backbone = forking_backbone(seed=3)
    model = MedusaAparModel(backbone, random_heads(backbone))
    _, ids, _ = batch(3, lengths=(6,))
    whole = decode(model, ids, max_new_tokens=60).trees
    assert whole is not None
    for calls in (1, 4, 9):
        cut = decode(model, ids, max_new_tokens=60, stopping_criteria=StoppingCriteriaList([Cancels(calls)]))
        assert cut.trees is not None
        answer = cut.trees[0].answer_token_ids()
        assert answer == whole[0].answer_token_ids()[: len(answer)]
        assert 0 < len(answer) <= calls
        assert cut.trees[0].threads[0].finish_reason == "stop"
        assert not any(pool.held for pool in checked[-1].pools)


ENGINE_RUNS = 10_000


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_random_runs_break_no_invariant(checked: list[Engine]) -> None:
    """Random prompts, batches, limits, budgets, pools, thread limits and cancellations, greedy and sampled."""
    random = Random(0)
    models = []
    for seed in range(6):
        backbone = forking_backbone(("llama", "qwen2", "qwen3")[seed % 3], seed=seed)
        make_heads = (random_heads, random_sequential_heads, random_eagle3_heads)[seed // 2]
        models.append(MedusaAparModel(backbone, make_heads(backbone, seed, num_heads=2 + seed % 3)))
    for run in range(ENGINE_RUNS // 2):
        model = random.choice(models)
        lengths = tuple(random.randint(1, 12) for _ in range(random.randint(1, 4)))
        _, ids, mask = batch(run, lengths)
        limit = random.randint(1, 40)
        request: dict[str, Any] = {"max_new_tokens": limit, "max_depth": random.randint(1, 4)}
        if random.random() < 0.5:
            request |= {"do_sample": True, "seed": run, "temperature": random.choice([0.7, 1.5])}
        one = decode(model, ids, mask, **request, **random_schedule(random, max(lengths), limit, request["max_depth"]))
        other_schedule = random_schedule(random, max(lengths), limit, request["max_depth"])
        if random.random() < 0.2:
            calls = random.randint(1, 60)
            criterion = Cancels(calls, random.choice([None, CancelledError()]))
            with suppress(CancelledError):
                decode(
                    model, ids, mask, stopping_criteria=StoppingCriteriaList([criterion]), **request, **other_schedule
                )
        else:
            other = decode(model, ids, mask, **request, **other_schedule)
            assert torch.equal(one.sequences, other.sequences), (run, request, other_schedule)
        assert not any(pool.held for pool in checked[-1].pools)


def random_schedule(random: Random, prompt: int, limit: int, max_depth: int) -> dict[str, Any]:
    """Arguments that must not change the answer."""
    least = prompt + 2 * limit + max_depth + 6
    schedule: dict[str, Any] = {"max_threads": random.choice([1, 2, 3, 8]), "medusa": random.random() < 0.8}
    schedule["max_slots"] = random.choice([None, least, least + random.randint(0, 40)])
    if schedule["medusa"]:
        schedule |= random.choice(
            [{"nodes_per_step": random.choice([1, 4, 16, 60])}, {"medusa_choices": [[0], [1], [0, 0], [2]]}, {}]
        )
    return schedule


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_stays_flat_over_two_thousand_requests() -> None:
    backbone = forking_backbone(seed=0)
    model = MedusaAparModel(backbone, random_heads(backbone))
    process = psutil.Process()
    held = []
    for run in range(2000):
        _, ids, _ = batch(run, (6,))
        output = decode(model, ids, max_new_tokens=24)
        assert isinstance(output, MedusaAparOutput)
        if run % 500 == 499:
            held.append(process.memory_info().rss)
    assert max(held[1:]) - held[0] < 8 * 2**20, [round(size / 2**20) for size in held]
