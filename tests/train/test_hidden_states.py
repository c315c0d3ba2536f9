"""Hidden states of the frozen backbone, kept between epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from medusa_apar.train.evaluation.places import head_inputs
from medusa_apar.train.heads import hidden_states
from medusa_apar.train.heads import training as heads
from medusa_apar.train.heads.hidden_states import HIDDEN_STATES, HiddenStates
from medusa_apar.train.rows.tree_data import TreeCollator, TreeRow
from medusa_apar.train.tree_attention import attend_along_paths

from .test_training import arguments, losses, rows_file

__all__ = ["rows_file"]

ROWS = [TreeRow([5, 6, 7], [0, 1, 2], [1, 2, -1], [0, 0, 0], [-1], [True, False, False])]
ROWS += [TreeRow([5, 6, 7, 8, 9], [0, 1, 2, 3, 4], [1, 2, 3, 4, -1], [0] * 5, [-1], [True] + [False] * 4)]


@pytest.fixture
def backbone(tiny_backbone_dir: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(tiny_backbone_dir)
    attend_along_paths(model)
    return model.eval()


@pytest.fixture
def batch(tiny_backbone_dir: Path) -> Callable[[list[TreeRow]], dict[str, Any]]:
    return TreeCollator.of(AutoTokenizer.from_pretrained(tiny_backbone_dir), label_heads=1)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each pass of the backbone."""
    counted: list[int] = []

    def counting(model: PreTrainedModel, inputs: dict[str, Any], layers: Sequence[int]) -> Tensor:
        counted.append(len(inputs["input_ids"]))
        return head_inputs(model, inputs, layers)

    monkeypatch.setattr(hidden_states, "head_inputs", counting)
    return counted


def test_a_row_is_computed_once_whatever_it_shares_a_batch_with(
    backbone: PreTrainedModel, batch: Any, passes: list[int], tmp_path: Path
) -> None:
    kept = HiddenStates(backbone, tmp_path)
    together = kept.of_batch(batch(ROWS))
    assert passes == [2]
    for at, row in enumerate(ROWS):
        alone = kept.of_batch(batch([row]))
        torch.testing.assert_close(alone[0], together[at, : len(row)])
    reversed_order = kept.of_batch(batch(ROWS[::-1]))
    assert passes == [2]
    torch.testing.assert_close(reversed_order[1, :3], together[0, :3])


def test_rows_of_the_same_tokens_on_other_paths_are_other_rows(
    backbone: PreTrainedModel, batch: Any, passes: list[int], tmp_path: Path
) -> None:
    siblings = TreeRow([5, 6, 7], [0, 1, 1], [1, -1, -1], [0, 1, 2], [-1, 0, 0], [True, False, False])
    one_path = TreeRow([5, 6, 7], [0, 1, 1], [1, 2, -1], [0, 1, 2], [-1, 0, 1], [True, False, False])
    kept = HiddenStates(backbone, tmp_path)
    assert not torch.equal(kept.of_batch(batch([siblings])), kept.of_batch(batch([one_path])))
    assert passes == [1, 1]


def test_a_file_that_an_interruption_cut_off_is_made_again(
    backbone: PreTrainedModel, batch: Any, passes: list[int], tmp_path: Path
) -> None:
    kept = HiddenStates(backbone, tmp_path)
    whole = kept.of_batch(batch(ROWS[:1]))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-8])
    assert torch.equal(kept.of_batch(batch(ROWS[:1])), whole)
    assert passes == [1, 1]


def test_on_a_full_disk_they_are_removed_and_computed_in_every_epoch(
    tiny_backbone_dir: Path,
    rows_file: Path,
    tmp_path: Path,
    passes: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    heads.main(arguments(tiny_backbone_dir, rows_file, tmp_path / "anew", "--num_heads", "2"))
    anew, written = len(passes), 0

    def filling(tensors: dict[str, Tensor], path: Path) -> None:
        nonlocal written
        written += 1
        path.write_bytes(b"half")
        if written > 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(hidden_states, "save_file", filling)
    out = tmp_path / "kept"
    heads.main(arguments(tiny_backbone_dir, rows_file, out, "--num_heads", "2", "--keep_hidden_states", "True"))
    assert "No space left on device" in caplog.text
    assert written == 3, "it is not tried again"
    assert len(passes) == 2 * anew
    assert not (out / HIDDEN_STATES).exists()
    assert losses(out) == losses(tmp_path / "anew")


@pytest.mark.integration
@pytest.mark.parametrize("labels", ["data", "self"])
def test_training_is_the_same_with_kept_hidden_states(
    tiny_backbone_dir: Path, rows_file: Path, tmp_path: Path, passes: list[int], labels: str
) -> None:
    more = ["--labels", labels, "--num_heads", "2", *(["--max_new_tokens", "8"] if labels == "self" else [])]
    heads.main(arguments(tiny_backbone_dir, rows_file, tmp_path / "anew", *more))
    anew = len(passes)
    heads.main(arguments(tiny_backbone_dir, rows_file, tmp_path / "kept", *more, "--keep_hidden_states", "True"))
    assert 0 < len(passes) - anew < anew
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "anew"), rel=1e-4)
    assert not (tmp_path / "kept" / HIDDEN_STATES).exists()
