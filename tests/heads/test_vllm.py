"""Heads in vLLM's Medusa layout, both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM

from medusa_apar.heads import MedusaHeads, SequentialHeads
from medusa_apar.heads.checkpoints.loading import load_heads
from medusa_apar.heads.checkpoints.medusa_llm import save_medusa_llm
from medusa_apar.heads.checkpoints.vllm import save_vllm


def trained(backbone: LlamaForCausalLM, *, shared: bool, layers: int = 2) -> MedusaHeads:
    heads = MedusaHeads.for_backbone(backbone, num_heads=3, num_layers=layers, shared_projection=shared)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return heads.eval()


@pytest.mark.parametrize("shared", [False, True], ids=["own projections", "shared projection"])
def test_what_is_written_reads_back_to_the_same_logits(
    backbone: LlamaForCausalLM, hidden_states: Tensor, tmp_path: Path, shared: bool
) -> None:
    heads = trained(backbone, shared=shared)
    save_vllm(heads, tmp_path, backbone)
    loaded = load_heads(tmp_path, backbone)
    assert isinstance(loaded, MedusaHeads)
    assert loaded.config.shared_projection == shared
    with torch.no_grad():
        logits = [each(hidden_states, backbone.lm_head) for each in (heads, loaded)]
    assert torch.equal(*logits)


TOKENS = torch.tensor([1, 4, 5, 11, 30])


def of_draft_vocabulary(backbone: LlamaForCausalLM) -> MedusaHeads:
    heads = MedusaHeads.for_backbone(backbone, num_heads=3, draft_token_ids=TOKENS)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return heads.eval()


def test_a_draft_vocabulary_is_vllms_token_map(
    backbone: LlamaForCausalLM, hidden_states: Tensor, tmp_path: Path
) -> None:
    heads = of_draft_vocabulary(backbone)
    save_vllm(heads, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["truncated_vocab_size"] == len(TOKENS)
    assert torch.equal(load_file(tmp_path / "model.safetensors")["token_map"], TOKENS)
    loaded = load_heads(tmp_path, backbone)
    assert loaded.draft_token_ids is not None
    assert torch.equal(loaded.draft_token_ids, TOKENS)
    with torch.no_grad():
        assert torch.equal(*(each(hidden_states, backbone.lm_head) for each in (heads, loaded)))


@pytest.mark.parametrize("shared", [False, True], ids=["each its own", "one for all"])
def test_projections_to_all_tokens_are_cut_to_the_draft_vocabulary(
    backbone: LlamaForCausalLM, hidden_states: Tensor, tmp_path: Path, shared: bool
) -> None:
    """VLLM takes files that hold a row for every token beside a `token_map`."""
    heads = trained(backbone, shared=shared)
    save_vllm(heads, tmp_path, backbone)
    path = tmp_path / "model.safetensors"
    save_file({**load_file(path), "token_map": TOKENS}, path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"truncated_vocab_size": len(TOKENS)}))
    loaded = load_heads(tmp_path, backbone)
    with torch.no_grad():
        whole, cut = (each(hidden_states, backbone.lm_head) for each in (heads, loaded))
    torch.testing.assert_close(cut, whole[..., TOKENS])


@pytest.mark.parametrize(
    "tokens", [TOKENS[:4], TOKENS.flip(0), TOKENS.float(), torch.tensor([1, 1, 2, 3, 4]), TOKENS + 10**6]
)
def test_a_wrong_token_map_is_named(backbone: LlamaForCausalLM, tmp_path: Path, tokens: Tensor) -> None:
    save_vllm(of_draft_vocabulary(backbone), tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({**load_file(path), "token_map": tokens.contiguous()}, path)
    with pytest.raises(ValueError, match=r"`token_map` is .* or not rising; truncated_vocab_size=5 needs"):
        load_heads(tmp_path, backbone)


def test_names_and_fields_are_vllms(backbone: LlamaForCausalLM, tmp_path: Path) -> None:
    save_vllm(trained(backbone, shared=False), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("medusa", ["MedusaModel"])
    assert (config["num_heads"], config["num_hidden_layers"], config["medusa_fc_bias"]) == (3, 2, True)
    assert config["truncated_vocab_size"] == config["vocab_size"]
    names = {
        f"blocks.{head}.layers.{layer}.{kind}" for head in range(3) for layer in (0, 1) for kind in ("weight", "bias")
    }
    assert set(load_file(tmp_path / "model.safetensors")) == names | {f"lm_heads.{head}.weight" for head in range(3)}


def test_a_shared_projection_is_held_once(backbone: LlamaForCausalLM, tmp_path: Path) -> None:
    save_vllm(trained(backbone, shared=True), tmp_path, backbone)
    weights = load_file(tmp_path / "model.safetensors")
    assert [name for name in weights if "lm_head" in name] == ["lm_heads.0.weight"]
    assert torch.equal(weights["lm_heads.0.weight"], backbone.lm_head.weight)
    assert json.loads((tmp_path / "config.json").read_text())["original_lm_head"] is True


def test_a_shared_projection_needs_its_backbone(backbone: LlamaForCausalLM, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"share the backbone's lm_head.*--backbone"):
        save_vllm(trained(backbone, shared=True), tmp_path)
    assert not list(tmp_path.iterdir())


def test_blocks_without_bias_have_none(backbone: LlamaForCausalLM, tmp_path: Path) -> None:
    save_vllm(trained(backbone, shared=False), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"medusa_fc_bias": False}))
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: each for name, each in weights.items() if "bias" not in name}, tmp_path / "model.safetensors")
    for name, parameter in load_heads(tmp_path, backbone).named_parameters():
        assert bool((parameter == 0).all()) == name.endswith("bias")


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("truncated_vocab_size", 7, "`token_map` is missing; truncated_vocab_size=7 needs so many rising token ids"),
        ("num_heads", 0, "num_heads=0, which must be a whole number from 1"),
        ("num_hidden_layers", 3, r"`blocks\.0\.layers\.2\.weight` is missing"),
    ],
)
def test_a_config_that_is_wrong_is_named(
    backbone: LlamaForCausalLM, tmp_path: Path, field: str, value: object, error: str
) -> None:
    save_vllm(trained(backbone, shared=False), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(ValueError, match=error):
        load_heads(tmp_path, backbone)


def test_medusa_llm_has_no_place_for_a_draft_vocabulary(backbone: LlamaForCausalLM, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"draft_vocab_size=5: .* export to vllm, or train heads without"):
        save_medusa_llm(of_draft_vocabulary(backbone), tmp_path, "base")


def test_sequential_heads_have_no_place(backbone: LlamaForCausalLM, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no place for heads of another kind; export Medusa heads"):
        save_vllm(SequentialHeads.for_backbone(backbone), tmp_path)
