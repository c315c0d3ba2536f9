"""EAGLE-3 heads in training: along the paths of trees, level after level, as they draft."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from medusa_apar import MedusaAparModel
from medusa_apar.heads import Eagle3Heads
from medusa_apar.heads.checkpoints.loading import load_heads
from medusa_apar.train.evaluation.places import Places, draft_places, head_inputs
from medusa_apar.train.heads import joint, training
from medusa_apar.train.rows.tree_data import IGNORE_INDEX, TreeCollator, decoded_row
from medusa_apar.train.tree_attention import attend_along_paths

from ..conftest import FORKING_SEEDS, forking_backbone, random_eagle3_heads
from ..drafters.test_eagle3_drafter import SlowHeads
from ..engine.test_lossless import batch, decode
from .test_training import arguments, losses, rows_file  # noqa: F401


@torch.inference_mode()
def test_logits_along_a_tree_are_those_of_its_linear_paths() -> None:
    backbone = forking_backbone("qwen2", FORKING_SEEDS["qwen2"])
    heads, slow = random_eagle3_heads(backbone), SlowHeads(random_eagle3_heads(backbone), backbone)
    _, ids, mask = batch(seed=4, lengths=(5, 9))
    trees = decode(MedusaAparModel(backbone), ids, mask, max_new_tokens=24).trees
    assert trees is not None
    assert sum(len(tree.threads) for tree in trees) > 3
    rows = [decoded_row(tree) for tree in trees]
    handle = attend_along_paths(backbone)
    together = TreeCollator(pad_token_id=0, label_heads=3)(rows)
    places = Places.of_batch(head_inputs(backbone, together, heads.auxiliary_layers), together, heads.auxiliary_layers)
    logits = places.logits(heads, backbone).log_softmax(dim=-1)
    handle.remove()
    at = 0
    for row, wanted in zip(rows, draft_places(together), strict=True):
        for place in wanted.nonzero()[:, 0].tolist():
            path = path_to(row, row.successor[place])
            for level in range(3):
                if places.labels[level, at] != IGNORE_INDEX:
                    drafted = places.path[at, 1 : level + 1].tolist()
                    assert torch.allclose(logits[level, at], slow.log_probs(path, drafted), atol=1e-6)
            at += 1
    assert at == logits.shape[1] > 10


def path_to(row: Any, end: int) -> list[int]:
    """The tokens from the beginning of a path to a place."""
    mask = TreeCollator(pad_token_id=0)([row])["attention_mask"][0, 0, end]
    return torch.tensor(row.input_ids)[mask[: len(row)]].tolist()


@pytest.mark.integration
@pytest.mark.parametrize("labels", ["data", "self"])
def test_they_learn_and_load(tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path, labels: str) -> None:  # noqa: F811
    more = ["--kind", "eagle3", "--num_heads", "3", "--labels", labels, "--max_new_tokens", "40"]
    more += ["--draft_vocab_size", "12", "--eval_data", str(rows_file), "--learning_rate", "1e-2"]
    training.main(arguments(tiny_backbone_dir, rows_file, tmp_path, *more))
    values = losses(tmp_path)
    assert values[-1] < values[0]
    loaded = load_heads(tmp_path, AutoModelForCausalLM.from_pretrained(tiny_backbone_dir))
    assert isinstance(loaded, Eagle3Heads)
    assert loaded.draftable == 12
    assert len(loaded.config.accuracy) == len(loaded.config.acceptance) == 3
    assert json.loads((tmp_path / "training.json").read_text())


@pytest.mark.integration
def test_joint_training_refuses_them(tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path) -> None:  # noqa: F811
    backbone = AutoModelForCausalLM.from_pretrained(tiny_backbone_dir)
    Eagle3Heads.for_backbone(backbone).save_pretrained(tmp_path / "heads")
    with pytest.raises(SystemExit, match="2"):
        joint.main(arguments(tiny_backbone_dir, rows_file, tmp_path / "out", "--heads", str(tmp_path / "heads")))
