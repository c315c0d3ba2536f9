"""medusa-llm's fixed trees, laid for comparison."""

from __future__ import annotations

import torch

from medusa_apar import MedusaAparModel
from medusa_apar.eval.decoding import Limits, decode
from medusa_apar.eval.fixed_tree import FIXED_TREE
from medusa_apar.modes import Mode

from .conftest import forking_backbone, random_heads


def test_the_fixed_tree_gives_the_same_answer_as_the_shared_budget() -> None:
    backbone = forking_backbone(seed=0)
    forking = MedusaAparModel(backbone, random_heads(backbone))
    ids = torch.tensor([[9, 10, 11, 12, 13]])
    shared, fixed = (decode(forking, mode, ids, Limits(max_new_tokens=24)) for mode in (Mode.MEDUSA_APAR, FIXED_TREE))
    assert shared.token_ids == fixed.token_ids
    assert fixed.stats.forward_nodes > 3 * fixed.stats.steps, "the tree should stand behind every pending token"
