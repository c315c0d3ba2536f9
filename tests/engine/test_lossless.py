"""Invariants 1 to 3: every thread is what the backbone writes alone, however the work is scheduled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from random import Random
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from medusa_apar import MedusaAparModel, MedusaAparOutput
from medusa_apar.drafters.drafter import Beam
from medusa_apar.drafting.budget import CostCurve, FixedBudget, StepCost
from medusa_apar.heads import DraftHeads

from ..conftest import (
    CHILD,
    CONTROL,
    EOS,
    FORK,
    FORKING_SEEDS,
    VOCABULARY,
    forking_backbone,
    random_draft_vocabulary_heads,
    random_eagle3_heads,
    random_heads,
    random_medusa_draft_vocabulary_heads,
    random_sequential_heads,
)
from ..oracle import Oracle

MAX_DEPTH = 3
LIMIT = 48
HEADS = (random_heads, random_sequential_heads, random_draft_vocabulary_heads, random_eagle3_heads)
SCHEDULES: dict[str, dict[str, Any]] = {
    "eight threads": {"max_threads": 8, "nodes_per_step": 24},
    "two threads": {"max_threads": 2, "nodes_per_step": 9},
    "one thread": {"max_threads": 1, "nodes_per_step": 5},
    "no drafting": {"max_threads": 8, "medusa": False},
    "pending tokens alone": {"max_threads": 3, "nodes_per_step": 1},
    "many nodes": {"max_threads": 8, "nodes_per_step": 90},
}


def batch(seed: int = 0, lengths: tuple[int, ...] = (5, 9, 3)) -> tuple[list[list[int]], Tensor, Tensor]:
    """Random prompts, and their left-padded batch."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(4, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]
    width = max(lengths)
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    return prompts, ids, torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])


@cache
def oracle_of(family: str) -> Oracle:
    """That of the fixture `backbone`."""
    return Oracle(forking_backbone(family, FORKING_SEEDS[family]), CONTROL, EOS, MAX_DEPTH)


def decode(model: MedusaAparModel, ids: Tensor, mask: Tensor | None = None, **options: Any) -> MedusaAparOutput:
    options = {"max_new_tokens": LIMIT, "max_depth": MAX_DEPTH, **options}
    output = model.generate(ids, attention_mask=mask, return_dict_in_generate=True, **options)
    assert isinstance(output, MedusaAparOutput)
    return output


@pytest.mark.parametrize(
    "make_heads",
    [
        random_heads,
        random_medusa_draft_vocabulary_heads,
        random_sequential_heads,
        random_draft_vocabulary_heads,
        random_eagle3_heads,
    ],
)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
def test_every_thread_is_the_backbones_own_continuation(
    family: str, backbone: PreTrainedModel, schedule: dict[str, Any], make_heads: Callable[..., DraftHeads]
) -> None:
    model = MedusaAparModel(backbone, make_heads(backbone))
    _, ids, mask = batch(seed=4, lengths=(5, 9, 3, 7))
    output = decode(model, ids, mask, max_new_tokens=32, **schedule)
    assert output.trees is not None
    assert sum(len(tree.threads) for tree in output.trees) > 3, "the tiny backbone should fork"
    assert sum(oracle_of(family).check(tree) for tree in output.trees) == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_answer_is_the_cut_of_the_answer_in_reading_order(seed: int) -> None:
    backbone = forking_backbone(seed=seed)
    prompts, ids, mask = batch(seed)
    output = decode(MedusaAparModel(backbone, random_heads(backbone)), ids, mask)
    assert output.trees is not None
    oracle = Oracle(backbone, CONTROL, EOS, MAX_DEPTH)
    for prompt, tree in zip(prompts, output.trees, strict=True):
        assert tree.answer_token_ids() == oracle.answer(prompt, LIMIT)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_scheduling_never_changes_threads_or_text(family: str) -> None:
    backbone = forking_backbone(family, seed=3)
    model = MedusaAparModel(backbone, random_heads(backbone))
    _, ids, mask = batch(3)
    outputs = [decode(model, ids, mask, **schedule) for schedule in SCHEDULES.values()]
    for other in outputs[1:]:
        assert torch.equal(outputs[0].sequences, other.sequences)
        for ours, theirs in zip(outputs[0].trees or (), other.trees or (), strict=True):
            assert _by_path(ours) == _by_path(theirs)


def _by_path(tree: Any) -> list[tuple[list[int], int, str]]:
    return sorted((thread.token_ids, thread.own_start, thread.finish_reason) for thread in tree.threads)


@pytest.mark.parametrize("bias", [-2.0, 1.5])
def test_a_bias_of_forks_is_the_models_or_that_of_the_call(bias: float) -> None:
    backbone = forking_backbone(seed=0)
    prompts, ids, mask = batch()
    plain = decode(MedusaAparModel(backbone, random_heads(backbone)), ids, mask)
    asked = decode(MedusaAparModel(backbone, random_heads(backbone)), ids, mask, fork_bias=bias)
    backbone.config.fork_bias = bias
    for named in ({}, {"fork_token_id": FORK, "child_token_id": CHILD}):
        recorded = decode(MedusaAparModel(backbone, random_heads(backbone), **named), ids, mask)
        assert torch.equal(asked.sequences, recorded.sequences)
    oracle = Oracle(backbone, replace(CONTROL, fork_bias=bias), EOS, MAX_DEPTH)
    for prompt, tree in zip(prompts, asked.trees or (), strict=True):
        assert oracle.check(tree) == 0
        assert tree.answer_token_ids() == oracle.answer(prompt, LIMIT)
    forks = [sum(len(tree.threads) for tree in output.trees or ()) for output in (plain, asked)]
    assert (forks[1] > forks[0]) is (bias > 0)


def test_a_bias_that_is_no_number_is_refused() -> None:
    model = MedusaAparModel(forking_backbone())
    with pytest.raises(ValueError, match="fork_bias=inf is not finite; pass a number, or apar=False"):
        decode(model, batch()[1], fork_bias=float("inf"))


@pytest.mark.parametrize("max_batch", [1, 2])
@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "seed": 4}], ids=["greedy", "sampled"])
def test_rows_that_wait_for_others_are_answered_alike(max_batch: int, sampling: dict[str, Any]) -> None:
    backbone = forking_backbone(seed=0)
    model = MedusaAparModel(backbone, random_heads(backbone))
    _, ids, mask = batch(lengths=(5, 9, 3, 7, 7))
    together, waiting = (decode(model, ids, mask, max_batch=most, **sampling) for most in (None, max_batch))
    assert torch.equal(together.sequences, waiting.sequences)
    steps = [[step for thread in tree.threads for step in thread.steps] for tree in waiting.trees or ()]
    for step in range(max(map(max, steps)) + 1):
        assert sum(min(row) < step <= max(row) for row in steps) <= max_batch


def test_batch_neighbours_do_not_matter() -> None:
    backbone = forking_backbone(seed=0)
    model = MedusaAparModel(backbone, random_heads(backbone))
    prompts, ids, mask = batch()
    together = decode(model, ids, mask).trees
    assert together is not None
    for prompt, tree in zip(prompts, together, strict=True):
        alone = decode(model, torch.tensor([prompt])).trees
        assert alone is not None
        assert alone[0].answer_token_ids() == tree.answer_token_ids()


@pytest.mark.parametrize("seed", range(4))
def test_a_smaller_limit_gives_a_prefix(seed: int) -> None:
    backbone = forking_backbone(seed=seed)
    model = MedusaAparModel(backbone, random_heads(backbone))
    _, ids, _ = batch(seed, (6,))
    whole = decode(model, ids, max_new_tokens=60)
    assert whole.trees is not None
    answer = whole.trees[0].answer_token_ids()
    for limit in (1, 2, 7, 30, len(answer)):
        cut = decode(model, ids, max_new_tokens=limit)
        assert cut.trees is not None
        assert cut.trees[0].answer_token_ids() == answer[:limit]
        assert cut.stats is not None
        assert cut.stats.answer_tokens == min(limit, len(answer))


def test_without_apar_it_is_plain_greedy_decoding(backbone: PreTrainedModel) -> None:
    model = MedusaAparModel(backbone, random_heads(backbone))
    _, ids, mask = batch()
    ours = model.generate(ids, attention_mask=mask, max_new_tokens=30, apar=False)
    theirs = backbone.generate(
        ids, attention_mask=mask, max_new_tokens=30, do_sample=False, suppress_tokens=[FORK, CHILD], pad_token_id=0
    )
    assert isinstance(ours, Tensor)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lossless_in_both_attentions_and_precisions(attention: str, dtype: torch.dtype) -> None:
    backbone = forking_backbone(seed=0, dtype=dtype, attention=attention)
    _, ids, mask = batch()
    output = decode(MedusaAparModel(backbone, random_heads(backbone)), ids, mask)
    oracle = Oracle(backbone, CONTROL, EOS, MAX_DEPTH)
    ties = sum(oracle.check(tree) for tree in output.trees or ())
    assert ties == 0 or dtype == torch.float32


def test_a_step_is_one_forward_pass_under_one_mask() -> None:
    backbone = forking_backbone(seed=0)
    model = MedusaAparModel(backbone, random_heads(backbone))
    _, ids, mask = batch()
    calls: list[torch.Size] = []
    backbone.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(kwargs["attention_mask"].shape), with_kwargs=True
    )
    output = decode(model, ids, mask, nodes_per_step=16)
    assert output.stats is not None
    prefill, *steps = calls
    assert len(steps) == output.stats.steps
    assert all(shape[:2] == (1, 1) for shape in calls)
    assert prefill[2] == mask.sum()
    assert sum(shape[2] for shape in steps) == output.stats.forward_nodes


def test_what_forks_inside_a_step_save_is_counted() -> None:
    backbone = forking_backbone(seed=3)
    model = MedusaAparModel(backbone, random_heads(backbone))
    _, ids, mask = batch(3)
    wide = decode(model, ids, mask, nodes_per_step=40).stats
    narrow = decode(model, ids, mask, nodes_per_step=1).stats
    assert wide is not None
    assert narrow is not None
    assert (narrow.forks_inside_steps, narrow.eager_children, narrow.saved_thread_steps) == (0, 0, 0)
    assert 0 < wide.eager_children <= wide.forks + wide.discarded_tokens
    assert wide.saved_thread_steps == wide.forks_inside_steps + wide.eager_children
    assert wide.steps < narrow.steps


def test_an_adaptive_budget_is_lossless_too() -> None:
    backbone = forking_backbone(seed=0)
    model = MedusaAparModel(backbone, random_heads(backbone))
    _, ids, mask = batch()
    with model.decoding() as (_, drafter):
        assert drafter is not None
    flat, steep = CostCurve.through((1, 64), (1.0, 1.0)), CostCurve.through((1, 64), (1.0, 64.0))
    outputs = []
    for curve in (flat, steep):
        free = CostCurve.through((1, 64), (0.0, 0.0))
        cost = StepCost(curve, dict.fromkeys(drafter.beams, free))
        with patch("medusa_apar.drafting.step_cost.step_cost", lambda *_, cost=cost: cost):
            outputs.append(decode(model, ids, mask))
    assert torch.equal(outputs[0].sequences, outputs[1].sequences)
    assert outputs[0].stats is not None
    assert outputs[1].stats is not None
    assert (
        outputs[0].stats.forward_nodes / outputs[0].stats.steps
        > outputs[1].stats.forward_nodes / outputs[1].stats.steps
    )


class Whimsical(FixedBudget):
    """Drafts something else in every step."""

    def __init__(self, beams: tuple[Beam, ...]) -> None:
        super().__init__(nodes_per_step=12)
        self._random, self._shapes = Random(0), [*beams, None]
        self.asked: set[Beam | None] = set()

    def shape(self, threads: int, expected: object) -> Beam | None:
        shape = self._random.choice(self._shapes)
        self.asked.add(shape)
        return shape


@pytest.mark.parametrize(
    "make_heads", [random_heads, random_sequential_heads, random_draft_vocabulary_heads, random_eagle3_heads]
)
def test_draft_trees_of_any_depth_and_width_give_the_same_answer(make_heads: Callable[..., DraftHeads]) -> None:
    backbone = forking_backbone(seed=0)
    model = MedusaAparModel(backbone, make_heads(backbone))
    _, ids, mask = batch()
    with model.decoding() as (_, drafter):
        assert drafter is not None
    whimsical = Whimsical(drafter.beams)
    with patch("medusa_apar.generation.Generation._budget", lambda *_: whimsical):
        changing = decode(model, ids, mask)
    assert whimsical.asked == {*drafter.beams, None}
    assert torch.equal(changing.sequences, decode(model, ids, mask, medusa=False).sequences)


def test_control_token_rules_hold_in_every_thread(backbone: PreTrainedModel) -> None:
    _, ids, mask = batch(1)
    for tree in decode(MedusaAparModel(backbone), ids, mask).trees or ():
        for thread in tree.threads:
            own = thread.own_token_ids
            injected = thread.parent is not None
            assert CHILD not in own[injected:]
            assert (FORK, FORK) not in set(pairwise(own))
            assert thread.depth < MAX_DEPTH or FORK not in own


def test_the_context_window_ends_a_path_and_not_the_answer() -> None:
    backbone = forking_backbone("llama", seed=3)
    backbone.config.max_position_embeddings = 24
    _, ids, _ = batch(1, (9,))
    output = decode(MedusaAparModel(backbone, random_heads(backbone)), ids, max_new_tokens=200)
    assert output.trees is not None
    tree = output.trees[0]
    assert max(len(thread.token_ids) for thread in tree.threads) <= 24
    ended = {thread.finish_reason for thread in tree.threads}
    assert "context" in ended
    assert ended <= {"context", "eos"}
