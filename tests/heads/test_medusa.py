"""What Medusa heads compute, and how they are saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from medusa_apar.heads import MedusaHeads, MedusaHeadsConfig


def with_random_blocks(heads: MedusaHeads) -> MedusaHeads:
    for head in heads.heads:
        for parameter in head.blocks.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return heads


@pytest.mark.parametrize("shared_projection", [False, True])
@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_untrained_heads_repeat_the_backbones_next_token_logits(backbone, hidden_states, num_layers, shared_projection):
    heads = MedusaHeads.for_backbone(backbone, num_heads=2, num_layers=num_layers, shared_projection=shared_projection)
    logits = heads(hidden_states, backbone.lm_head)
    torch.testing.assert_close(logits, backbone.lm_head(hidden_states).expand(2, -1, -1, -1))


@pytest.mark.parametrize("shared_projection", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_heads_in_half_precision_take_the_backbones_hidden_states(backbone, hidden_states, dtype, shared_projection):
    heads = MedusaHeads.for_backbone(backbone, num_heads=2, shared_projection=shared_projection).to(dtype)
    logits = heads(hidden_states, backbone.lm_head)
    assert logits.dtype is (backbone.dtype if shared_projection else dtype)
    expected = backbone.lm_head(hidden_states).expand(2, -1, -1, -1)
    torch.testing.assert_close(logits.float(), expected, atol=0.1, rtol=0.05)


def test_a_head_is_its_residual_blocks_in_order_and_then_its_projection(backbone, hidden_states):
    heads = with_random_blocks(MedusaHeads.for_backbone(backbone, num_heads=2, num_layers=2))
    for head in heads.heads:
        torch.nn.init.normal_(head.projection.weight)
    logits = heads(hidden_states, backbone.lm_head)
    for head, got in zip(heads.heads, logits, strict=True):
        x = hidden_states
        for block in head.blocks:
            x = x + torch.nn.functional.silu(x @ block.linear.weight.T + block.linear.bias)
        torch.testing.assert_close(got, x @ head.projection.weight.T)
    assert not torch.allclose(logits[0], logits[1])


def test_a_shared_projection_is_the_lm_head_of_the_call_and_no_parameter_of_the_heads(backbone, hidden_states):
    heads = with_random_blocks(MedusaHeads.for_backbone(backbone, num_heads=3, shared_projection=True))
    assert not any("projection" in name for name in heads.state_dict())
    before = heads(hidden_states, backbone.lm_head)
    with torch.no_grad():
        backbone.lm_head.weight *= 2
    torch.testing.assert_close(heads(hidden_states, backbone.lm_head), before * 2)


@pytest.mark.parametrize("shape", [(16,), (4, 16), (2, 5, 16)])
def test_logits_are_heads_first_and_vocabulary_last(heads, backbone, shape):
    assert heads(torch.randn(shape), backbone.lm_head).shape == (3, *shape[:-1], 31)


@pytest.mark.parametrize("shared_projection", [False, True])
def test_gradients_reach_every_parameter(backbone, hidden_states, shared_projection):
    heads = MedusaHeads.for_backbone(backbone, num_heads=2, num_layers=2, shared_projection=shared_projection)
    heads(hidden_states, backbone.lm_head).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in heads.parameters())


def test_heads_for_a_backbone_take_its_sizes_and_dtype_and_copy_its_lm_head(backbone):
    heads = MedusaHeads.for_backbone(backbone.to(torch.bfloat16))
    assert (heads.config.hidden_size, heads.config.vocab_size, heads.dtype) == (16, 31, torch.bfloat16)
    before = heads.heads[0].projection.weight.clone()
    with torch.no_grad():
        backbone.lm_head.weight.zero_()
    assert torch.equal(heads.heads[0].projection.weight, before)


@pytest.mark.parametrize("shared_projection", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_and_load_keep_every_bit(backbone, tmp_path: Path, dtype, shared_projection):
    heads = MedusaHeads.for_backbone(backbone, num_heads=2, num_layers=2, shared_projection=shared_projection)
    heads = with_random_blocks(heads).to(dtype)
    heads.config.calibration_temperature = [1.5, 0.75]
    heads.config.accuracy = [[0.5, 0.6], [0.3, 0.4]]
    heads.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loaded = MedusaHeads.from_pretrained(tmp_path)
    assert loaded.dtype is dtype
    assert loaded.state_dict().keys() == heads.state_dict().keys()
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in heads.state_dict().items())
    assert loaded.config.calibration_temperature == [1.5, 0.75]
    assert loaded.config.accuracy == [[0.5, 0.6], [0.3, 0.4]]
    assert loaded.config.shared_projection is shared_projection


def test_calibration_is_one_per_head_unless_given():
    assert MedusaHeadsConfig(num_heads=4).calibration_temperature == [1.0] * 4
    assert MedusaHeadsConfig(num_heads=2, calibration_temperature=[2.0, 3.0]).calibration_temperature == [2.0, 3.0]


@pytest.mark.parametrize(("name", "size"), [("hidden_size", 32), ("vocab_size", 40)])
def test_heads_of_another_backbone_are_refused_by_name_and_value(heads, backbone, name, size):
    values = backbone.config.to_dict() | {name: size}
    other = LlamaForCausalLM(LlamaConfig(**values))
    heads.check_fits(backbone)
    with pytest.raises(ValueError, match=rf"{name}=\d+.*{name}={size}.*medusa-apar train heads"):
        heads.check_fits(other)
