"""medusa-llm's fixed trees, laid for comparison."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch

from medusa_apar import MedusaAparModel
from medusa_apar.drafting.fixed_tree import FixedTree, tuned_tree
from medusa_apar.eval.decoding.decode import Limits, decode
from medusa_apar.heads import DraftHeads
from medusa_apar.modes import Mode

from ..conftest import forking_backbone, random_eagle3_heads, random_heads, random_sequential_heads


@pytest.mark.parametrize("make_heads", [random_heads, random_sequential_heads, random_eagle3_heads])
def test_the_fixed_tree_gives_the_same_answer_as_the_shared_budget(make_heads: Callable[..., DraftHeads]) -> None:
    backbone = forking_backbone(seed=0)
    forking = MedusaAparModel(backbone, make_heads(backbone))
    ids = torch.tensor([[9, 10, 11, 12, 13]])
    tree = [list(path) for length in (1, 2, 3) for path in product((0, 1), repeat=length)]
    shared, fixed = (
        decode(forking, Mode.MEDUSA_APAR, ids, Limits(max_new_tokens=24), medusa_choices=choices)
        for choices in (None, tree)
    )
    assert shared.token_ids == fixed.token_ids
    assert fixed.stats.forward_nodes > 3 * fixed.stats.steps, "the tree should stand behind every pending token"


def test_a_fixed_tree_is_laid_out_level_by_level() -> None:
    tree = FixedTree([[0, 1], [2], [0], [2, 0], [0, 1, 3]], draftable=4)
    assert tree.shape(1, None) == (((0, 0), (0, 2)), ((0, 1), (1, 0)), ((0, 3),))


def test_a_fixed_tree_needs_every_parent() -> None:
    with pytest.raises(ValueError, match=r"medusa_choices has \[1, 0\] without its parent \[1\]; add it"):
        FixedTree([[0], [1, 0]], draftable=4)


@pytest.mark.parametrize("path", [[4], [-1], [0, 4]])
def test_a_fixed_tree_has_only_what_heads_can_guess(path: list[int]) -> None:
    with pytest.raises(ValueError, match=rf"medusa_choices has \[{', '.join(map(str, path))}\].* ranks 0 to 3"):
        FixedTree([[0], path], draftable=4)


def test_a_fixed_tree_has_a_path() -> None:
    with pytest.raises(ValueError, match="medusa_choices is empty; list paths of ranks, or pass medusa=False"):
        FixedTree([], draftable=4)


def test_a_tuned_tree_has_the_likeliest_paths_first() -> None:
    accuracy = [[0.6, 0.8, 0.88], [0.5, 0.6, 0.65]]
    assert tuned_tree(accuracy, 4) == [(0,), (0, 0), (1,), (1, 0)]
    assert set(tuned_tree(accuracy, 100)) == {*product(range(3)), *product(range(3), range(3))}, (
        "there are no more draft tokens"
    )


@pytest.mark.parametrize("nodes", [1, 7, 30, 63])
def test_a_tuned_tree_has_the_parents_of_all_its_paths(nodes: int) -> None:
    accuracy = [[0.5, 0.7, 0.8, 0.85], [0.3, 0.4, 0.45, 0.47], [0.2, 0.25, 0.28, 0.3]]
    tree = tuned_tree(accuracy, nodes)
    assert len(tree) == nodes
    assert all(path[:-1] in tree for path in tree if len(path) > 1)
