"""N-gram drafts: looked up in all that a request has read and written, and trusted as far as they were right."""

from __future__ import annotations

from math import exp
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from medusa_apar import MedusaAparModel
from medusa_apar.drafting.budget import FixedBudget
from medusa_apar.drafting.draft_tree import ROOT, DraftTree, StepNodes, ThreadDraft, choose_nodes
from medusa_apar.drafting.ngrams import AHEAD, Continuation, NgramDrafter
from medusa_apar.engine.proposals import update_acceptance

from ..conftest import CONTROL, forking_backbone, random_heads
from ..engine.test_lossless import SCHEDULES, batch, decode, oracle_of


def reading(*texts: list[int]) -> NgramDrafter:
    """One that has read threads 1, 2, ..."""
    drafter = NgramDrafter()
    for thread, text in enumerate(texts, start=1):
        drafter.propose(thread, text)
    return drafter


def test_it_proposes_what_came_after_the_last_tokens_before() -> None:
    found = reading([7, 8, 9, 10, 11, 12]).propose(0, [1, 8, 9])
    assert found is not None
    assert (found.token_ids, found.size) == ([10, 11, 12], 2)


def test_the_longest_ngram_counts_and_of_these_the_last() -> None:
    texts = [5, 6, 7, 8, 20], [6, 7, 8, 21], [7, 8, 22], [9, 8, 23, 9, 8, 24]
    for context, wanted, size in (([5, 6, 7, 8], 20, 4), ([6, 7, 8], 21, 3), ([1, 7, 8], 22, 2), ([9, 8], 24, 2)):
        found = reading(*texts).propose(0, context)
        assert found is not None
        assert (found.token_ids[0], found.size) == (wanted, size)


def test_new_ngrams_propose_nothing() -> None:
    assert reading([7, 8, 9]).propose(0, [9, 8]) is None
    assert reading([7, 8, 9]).propose(0, [8, 9]) is None, "the end of the text itself"
    assert reading().propose(0, [7]) is None


def test_a_thread_is_read_as_it_grows_and_what_it_shares_is_not_read_again() -> None:
    text = [7, 8, 9]
    drafter = reading(text)
    text += range(10, 30)
    drafter.propose(1, text)
    drafter.propose(2, [7, 8, 99, 40, 50], start=3)
    found = drafter.propose(0, [7, 8])
    assert found is not None
    assert found.token_ids == [9, *range(10, 10 + AHEAD - 1)]
    child = drafter.propose(0, [99, 40])
    assert child is not None
    assert child.token_ids == [50]


def test_proposals_are_trusted_as_far_as_they_were_right() -> None:
    drafter = reading([7, 8, 9, 10, 11, 12, 13])
    first = drafter.propose(0, [7, 8])
    assert first is not None
    for _ in range(50):
        drafter.update(first, [9, 10, 5])
    trusted = drafter.propose(0, [7, 8])
    assert trusted is not None
    assert np.all(np.diff(trusted.log_probs) < 0)
    chances = np.exp(np.diff([0.0, *trusted.log_probs]))
    assert chances[0] > 0.85, "the first token was right whenever it was tried"
    assert chances[1] > 0.85
    assert chances[2] < 0.2, "the third never was"
    assert exp(first.log_probs[0]) < 0.5


HEADS = DraftTree(
    np.array([[20, 21], [30, 31]]), np.array([[0, 0], [0, 1]]), np.log([[0.5, 0.3], [0.2, 0.1]]).astype(np.float64)
)


def chosen(tokens: list[int], chances: list[float], tree: DraftTree | None = HEADS, nodes: int = 90) -> StepNodes:
    continuation = Continuation(tokens, np.log(chances).tolist(), 2)
    drafts = [ThreadDraft(9, 4, True, None), ThreadDraft(10, 6, True, tree, continuation)]
    return choose_nodes(drafts, FixedBudget(nodes), CONTROL, 1000)


def path_to(nodes: StepNodes, node: int) -> list[int]:
    path: list[int] = []
    while node != ROOT:
        path.insert(0, int(nodes.token_ids[node]))
        node = int(nodes.parent[node])
    return path


def test_a_continuation_goes_its_own_way_beside_the_heads() -> None:
    nodes = chosen([40, 41], [0.9, 0.8])
    assert nodes.token_ids.tolist() == [9, 10, 40, 41, 20, 21, 30, 31]
    assert path_to(nodes, 3) == [10, 40, 41]
    assert nodes.is_from_heads.tolist() == [False, False, False, False, True, True, True, True]
    assert nodes.position.tolist() == [4, 6, 7, 8, 7, 7, 8, 8]


def test_what_the_heads_propose_as_well_is_one_node_with_the_better_score() -> None:
    nodes = chosen([21, 31, 50], [0.9, 0.8, 0.7])
    assert nodes.token_ids.tolist() == [9, 10, 21, 31, 50, 20, 30]
    assert path_to(nodes, 4) == [10, 21, 31, 50]
    assert nodes.is_from_heads.tolist() == [False, False, True, True, False, True, True]


def test_without_heads_a_continuation_is_all_there_is() -> None:
    assert chosen([40, 41], [0.9, 0.8], tree=None).token_ids.tolist() == [9, 10, 40, 41]


def test_a_continuation_shares_the_budget() -> None:
    assert chosen([40, 41], [0.4, 0.1], nodes=4).token_ids.tolist() == [9, 10, 20, 40]


@pytest.mark.parametrize("heads", [True, False])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
def test_every_thread_is_the_backbones_own_continuation(
    family: str, backbone: PreTrainedModel, schedule: dict[str, Any], heads: bool
) -> None:
    model = MedusaAparModel(backbone, random_heads(backbone) if heads else None)
    _, ids, mask = batch(seed=4, lengths=(5, 9, 3, 7))
    output = decode(model, ids, mask, **{**schedule, "medusa": None, "ngrams": True, "max_new_tokens": 32})
    assert output.trees is not None
    assert sum(oracle_of(family).check(tree) for tree in output.trees) == 0


@pytest.mark.parametrize("seed", range(3))
def test_sampled_answers_are_the_same_with_and_without(seed: int) -> None:
    model = MedusaAparModel(forking_backbone(seed=seed))
    ids = torch.tensor([[9, 10, 11, 12, 9, 10, 11, 12, 9, 10]])
    sampled = {"do_sample": True, "temperature": 0.7, "top_k": 0, "seed": seed}
    answers = [decode(model, ids, ngrams=ngrams, **sampled).sequences for ngrams in (True, False)]
    assert torch.equal(*answers)


def test_a_model_without_heads_gains_from_its_first_call() -> None:
    """A backbone that repeats itself: each token decides the next one."""
    backbone = forking_backbone()
    with torch.no_grad():
        for layer in backbone.model.layers:
            layer.self_attn.o_proj.weight.zero_()
    stats = [decode(MedusaAparModel(backbone), torch.tensor([[9, 10, 11]]), **options).stats
             for options in ({"apar": False}, {"apar": False, "medusa": False})]  # fmt: skip
    assert stats[0] is not None
    assert stats[1] is not None
    assert stats[0].answer_tokens == stats[1].answer_tokens
    assert stats[1].steps > 1.5 * stats[0].steps
    assert stats[0].accepted_draft_tokens > 0


def test_heads_are_judged_by_what_they_proposed_themselves() -> None:
    nodes = chosen([21, 50], [0.9, 0.8])
    assert nodes.token_ids.tolist() == [9, 10, 21, 50, 20, 30, 31]
    seen: list[tuple[int, int]] = []
    acceptance = SimpleNamespace(update=lambda tree, carried, accepted: seen.append((carried, accepted)))
    live: Any = SimpleNamespace(
        draft_tree=HEADS, continuation=None, request=SimpleNamespace(running_acceptance=acceptance, ngrams=None)
    )
    update_acceptance(live, nodes, number=1, path=[1, 2, 3], tokens=[21, 50, 60])
    assert seen == [(4, 1)], "four of the nodes are the heads', and of these one was accepted"
