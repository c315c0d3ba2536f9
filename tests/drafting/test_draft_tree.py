"""Candidate trees: the best nodes of all threads, closed under ancestors, within the budget."""

from __future__ import annotations

from itertools import product
from math import exp, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medusa_apar.drafters.drafter import Beam
from medusa_apar.drafting.budget import CostCurve, FixedBudget, MeasuredBudget, StepCost
from medusa_apar.drafting.draft_tree import ROOT, DraftTree, StepNodes, ThreadDraft, ancestors, choose_nodes

from ..conftest import CHILD, CONTROL, FORK


def drafted(*heads: dict[int, float]) -> DraftTree:
    """All paths of draft tokens that do not see each other, from each head's probabilities by token."""
    levels: list[list[tuple[int, int, float]]] = []
    above = [0.0]
    for head in heads:
        level = [(token, at, s + log(p)) for at, s in enumerate(above) for token, p in head.items()]
        levels.append(sorted(level, key=lambda draft: -draft[2]))
        above = [score for _, _, score in levels[-1]]
    token_ids, parents = np.zeros((2, 3, 64), dtype=np.int64)
    log_probs = np.full((3, 64), -np.inf)
    for at, level in enumerate(levels):
        token_ids[at, : len(level)], parents[at, : len(level)], log_probs[at, : len(level)] = zip(*level, strict=True)
    return DraftTree(token_ids, parents, log_probs)


def choose(drafts: list[ThreadDraft], nodes: int, context_length: int = 1000) -> Chosen:
    return Chosen(choose_nodes(drafts, FixedBudget(nodes), CONTROL, context_length))


def measured(nodes: tuple[int, ...], seconds: tuple[float, ...]) -> MeasuredBudget:
    free = CostCurve.through((1, 64), (0.0, 0.0))
    return MeasuredBudget(StepCost(CostCurve.through(nodes, seconds), {Beam(levels=3, width=64): free}))


class Chosen:
    """Step nodes as plain lists."""

    def __init__(self, nodes: StepNodes) -> None:
        self.token_ids, self.parent = nodes.token_ids.tolist(), nodes.parent.tolist()
        self.thread, self.position = nodes.thread.tolist(), nodes.position.tolist()
        self.is_eager_child = nodes.is_eager_child.tolist()


def test_pending_tokens_come_first_whatever_the_budget() -> None:
    chosen = choose([ThreadDraft(10, 5, False, None), ThreadDraft(11, 8, False, None)], nodes=1)
    assert (chosen.token_ids, chosen.parent, chosen.position) == ([10, 11], [ROOT, ROOT], [5, 8])


def test_a_step_carries_draft_tokens_of_few_levels_beside_deep_ones() -> None:
    deep, shallow = drafted({20: 0.9}, {22: 0.9}, {23: 0.9}), drafted({30: 0.5}, {31: 0.5})
    shallow = DraftTree(shallow.token_ids[:2], shallow.parents[:2], shallow.log_probs[:2])
    chosen = choose([ThreadDraft(10, 0, False, deep), ThreadDraft(11, 5, False, shallow)], nodes=64)
    assert chosen.token_ids == [10, 11, 20, 22, 23, 30, 31]
    assert chosen.parent == [ROOT, ROOT, 0, 2, 3, 1, 5]
    assert chosen.position == [0, 5, 1, 2, 3, 6, 7]


def test_the_budget_flows_to_the_thread_that_is_easiest_to_guess() -> None:
    easy = ThreadDraft(10, 0, False, drafted({20: 0.9, 21: 0.05}, {22: 0.9}))
    hard = ThreadDraft(11, 0, False, drafted({30: 0.3, 31: 0.2}, {32: 0.2}))
    chosen = choose([easy, hard], nodes=5)
    assert chosen.token_ids == [10, 11, 20, 22, 30]
    assert chosen.parent == [ROOT, ROOT, 0, 2, 1]


def test_a_fork_gets_one_eager_child_as_likely_as_itself() -> None:
    chosen = choose([ThreadDraft(10, 4, True, drafted({FORK: 0.8, 21: 0.1}, {22: 0.5}))], nodes=4)
    assert chosen.token_ids == [10, FORK, CHILD, 22]
    assert chosen.is_eager_child == [False, False, True, False]
    assert chosen.parent == [ROOT, 0, 1, 1]
    assert chosen.position == [4, 5, 6, 6]


def test_a_pending_fork_opens_its_child_in_the_same_step() -> None:
    chosen = choose_nodes([ThreadDraft(FORK, 4, True, None)], FixedBudget(), CONTROL, 1000)
    assert chosen.token_ids.tolist() == [FORK, CHILD]


def test_no_eager_child_where_forking_is_forbidden() -> None:
    assert choose([ThreadDraft(FORK, 4, False, None)], nodes=9).token_ids == [FORK]


def test_no_node_stands_behind_the_context_window() -> None:
    chosen = choose([ThreadDraft(10, 7, True, drafted({FORK: 0.9}, {22: 0.9}, {23: 0.9}))], nodes=9, context_length=9)
    assert chosen.position == [7, 8]


def test_a_saturated_head_does_not_put_a_child_before_its_parent() -> None:
    chosen = choose([ThreadDraft(10, 0, False, drafted({20: 1.0}, {21: 1.0}, {22: 1.0}))], nodes=3)
    assert chosen.token_ids == [10, 20, 21]


probabilities = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(probabilities, min_size=1, max_size=3), min_size=1, max_size=3), st.integers(1, 25))
def test_the_nodes_are_the_likeliest_of_all(threads: list[list[list[float]]], budget: int) -> None:
    drafts = [
        ThreadDraft(4, 0, False, drafted(*({5 + i: p for i, p in enumerate(head)} for head in heads)))
        for heads in threads
    ]
    chosen = choose(drafts, nodes=budget)
    assert all(parent < node for node, parent in enumerate(chosen.parent))
    everything = []
    for heads in threads:
        ranked = [sorted(head, reverse=True) for head in heads]
        for depth in range(1, len(ranked) + 1):
            everything += [sum(map(log, path)) for path in product(*ranked[:depth])]
    wanted = sorted(everything, reverse=True)[: max(0, budget - len(threads))]
    scores, levels = [0.0] * len(threads), [0] * len(threads)
    for node in range(len(threads), len(chosen.parent)):
        parent = chosen.parent[node]
        probability = threads[chosen.thread[node]][levels[parent]][chosen.token_ids[node] - 5]
        scores.append(scores[parent] + log(probability))
        levels.append(levels[parent] + 1)
    assert sum(map(exp, scores[len(threads) :])) == pytest.approx(sum(map(exp, wanted)))


def test_an_adaptive_budget_stops_where_nodes_stop_paying() -> None:
    draft = [ThreadDraft(10, 0, False, drafted({20: 0.6, 21: 0.2}, {22: 0.5, 23: 0.3}, {24: 0.4}))]
    free = choose_nodes(draft, measured((1, 64), (1.0, 1.0)), None, 1000)
    dear = choose_nodes(draft, measured((1, 64), (1.0, 64.0)), None, 1000)
    stairs = choose_nodes(draft, measured((1, 4, 5, 64), (1.0, 1.0, 9.0, 9.0)), None, 1000)
    assert len(free) == 11
    assert dear.token_ids.tolist() == [10]
    assert len(stairs) == 4


def test_no_node_is_laid_for_which_the_pool_has_no_room() -> None:
    drafts = [ThreadDraft(10, 0, False, drafted({20: 0.9}, {22: 0.9})), ThreadDraft(11, 0, False, None)]
    assert len(choose_nodes(drafts, FixedBudget(9), CONTROL, 1000, room=3)) == 3


def test_ancestors_are_the_path_above_a_node() -> None:
    above = ancestors([ROOT, 0, 0, 1, ROOT])
    assert above.astype(int).tolist() == [
        [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 1, 0, 1, 0], [0, 0, 0, 0, 1],
    ]  # fmt: skip
