"""Medusa heads whose projections are products of two small matrices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from medusa_apar.heads import MedusaHeads
from medusa_apar.heads.checkpoints.loading import load_heads
from medusa_apar.heads.checkpoints.medusa_llm import save_medusa_llm
from medusa_apar.heads.checkpoints.vllm import save_vllm

RANK = 4


@pytest.fixture
def low_rank(backbone: LlamaForCausalLM) -> MedusaHeads:
    heads = MedusaHeads.for_backbone(backbone, num_heads=2, projection_rank=RANK)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return heads.eval()


def test_they_start_as_the_nearest_product_to_the_lm_head(backbone: LlamaForCausalLM, hidden_states: Tensor) -> None:
    weight = backbone.lm_head.weight.detach()
    errors = []
    for rank in (RANK, min(weight.shape)):
        heads = MedusaHeads.for_backbone(backbone, num_heads=1, projection_rank=rank)
        with torch.no_grad():
            errors.append((heads(hidden_states, backbone.lm_head)[0] - backbone.lm_head(hidden_states)).norm())
    assert errors[1] < 1e-4 < errors[0]
    left, values, right = torch.linalg.svd(weight)
    nearest = left[:, :RANK] * values[:RANK] @ right[:RANK]
    (head,) = MedusaHeads.for_backbone(backbone, num_heads=1, projection_rank=RANK).heads
    projection = head.projection
    torch.testing.assert_close(projection.up.weight @ projection.down.weight, nearest, atol=1e-5, rtol=1e-4)


def test_they_are_smaller(backbone: LlamaForCausalLM, low_rank: MedusaHeads) -> None:
    whole = MedusaHeads.for_backbone(backbone, num_heads=2)
    assert low_rank.num_parameters() < whole.num_parameters()


def test_they_save_and_load(backbone: LlamaForCausalLM, low_rank: MedusaHeads, tmp_path: Path) -> None:
    low_rank.save_pretrained(tmp_path)
    loaded = load_heads(tmp_path, backbone)
    assert isinstance(loaded, MedusaHeads)
    assert loaded.config.projection_rank == RANK
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in low_rank.state_dict().items())


SAVE = {"vllm": save_vllm, "medusa-llm": lambda heads, folder: save_medusa_llm(heads, folder, "some/backbone")}


@pytest.mark.parametrize("save", SAVE.values(), ids=SAVE.keys())
def test_other_formats_hold_them_multiplied_out(
    backbone: LlamaForCausalLM, low_rank: MedusaHeads, hidden_states: Tensor, tmp_path: Path,
    save: Callable[[MedusaHeads, Path], None],
) -> None:  # fmt: skip
    save(low_rank, tmp_path)
    loaded = load_heads(tmp_path, backbone)
    with torch.no_grad():
        expected, found = (heads(hidden_states, backbone.lm_head) for heads in (low_rank, loaded))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_shared_projection_has_no_rank(backbone: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match=r"projection_rank=4 .* shared_projection=True has none"):
        MedusaHeads.for_backbone(backbone, shared_projection=True, projection_rank=RANK)
