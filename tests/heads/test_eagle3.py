"""EAGLE-3 heads: both published layouts, what surprises in them, and what is said of broken ones."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, Qwen3Config

from medusa_apar import MedusaAparModel
from medusa_apar.heads import Eagle3Heads, Eagle3HeadsConfig, MedusaHeads
from medusa_apar.heads.checkpoints.eagle3_files import save_eagle3
from medusa_apar.heads.checkpoints.formats import CheckpointFormat, detect_format
from medusa_apar.heads.checkpoints.loading import load_heads
from medusa_apar.heads.cli import inspect
from medusa_apar.heads.cli import main as heads_main

from .conftest import HIDDEN, VOCAB
from .eagle3_checkpoints import write_safeai, write_speculators

DRAFTED = (1, 2, 3, 5, 8, 13, 21, 30)
LAYER: dict[str, Any] = {
    "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 64, "vocab_size": VOCAB, "num_hidden_layers": 1,
}  # fmt: skip
NORMS: dict[str, dict[str, bool]] = {
    "plain": {},
    "norm_before_residual": {"norm_before_residual": True},
    "norm_before_fc": {"norm_before_fc": True},
    "fc_norm": {"fc_norm": True},
    "EAGLE 3.1": {"fc_norm": True, "norm_output": True},
}


def eagle3_heads(*, width: int = HIDDEN, kind: type = LlamaConfig, full: bool = False, **options: Any) -> Eagle3Heads:
    config = Eagle3HeadsConfig(
        num_heads=4,
        hidden_size=HIDDEN,
        vocab_size=VOCAB,
        layer_config=kind(hidden_size=width, **LAYER),
        auxiliary_layers=[0, 1, 1],
        draft_vocab_size=None if full else len(DRAFTED),
        **options,
    )
    heads = Eagle3Heads(config)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    if not full:
        heads.draft_token_ids = torch.tensor(DRAFTED)
    return heads.eval()


def test_new_heads_draft_what_is_read_out_of_the_last_auxiliary_layer(backbone: LlamaForCausalLM) -> None:
    auxiliary, tokens = torch.randn(5, 3 * HIDDEN), torch.arange(5)
    with torch.no_grad():
        backbone.model.norm.weight.uniform_(0.5, 2)
        heads = Eagle3Heads.for_backbone(backbone, num_heads=1)
        _, logits = heads.advance(
            heads.fused(auxiliary), tokens, tokens, backbone.model.embed_tokens, torch.zeros(1, 1, 5, 5), DynamicCache()
        )
        expected = backbone.lm_head(backbone.model.norm(auxiliary[:, -HIDDEN:]))
    torch.testing.assert_close(logits, expected)


@torch.inference_mode()
def logits_of(heads: Eagle3Heads, backbone: LlamaForCausalLM) -> Tensor:
    """Along one path of six tokens, of which the backbone has states of the first four."""
    heads.layer.self_attn.config._attn_implementation = "eager"
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCAB, (6,), generator=generator)
    states = heads.fused(torch.randn(4, 3 * HIDDEN, generator=generator))
    cache, logits = DynamicCache(), []
    for at in range(1, len(tokens)):
        mask = torch.zeros(1, 1, 1, at)
        after, found = heads.advance(
            states[at - 1][None], tokens[at : at + 1], torch.tensor([at]), backbone.get_input_embeddings(), mask, cache
        )
        states = torch.cat([states, after]) if at >= 4 else states
        logits.append(found[0])
    return torch.stack(logits)


WRITERS = {CheckpointFormat.EAGLE3: write_safeai, CheckpointFormat.SPECULATORS: write_speculators}


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("own_embeddings", [True, False])
@pytest.mark.parametrize("kind", [LlamaConfig, Qwen3Config])
def test_both_layouts_are_read(
    layout: CheckpointFormat, own_embeddings: bool, kind: type, backbone: LlamaForCausalLM, tmp_path: Path
) -> None:
    heads = eagle3_heads(own_embeddings=own_embeddings, kind=kind)
    folder = WRITERS[layout](heads, tmp_path)
    assert detect_format(folder) is layout
    loaded = load_heads(folder, backbone)
    assert isinstance(loaded, Eagle3Heads)
    assert loaded.draft_token_ids is not None
    assert loaded.draft_token_ids.tolist() == list(DRAFTED)
    assert torch.equal(logits_of(loaded, backbone), logits_of(heads, backbone))


@pytest.mark.parametrize("norms", NORMS.values(), ids=list(NORMS))
def test_the_norms_of_the_config_are_read(norms: dict[str, bool], backbone: LlamaForCausalLM, tmp_path: Path) -> None:
    heads = eagle3_heads(**norms)
    loaded = load_heads(write_speculators(heads, tmp_path), backbone)
    assert isinstance(loaded, Eagle3Heads)
    assert torch.equal(logits_of(loaded, backbone), logits_of(heads, backbone))


def test_what_is_saved_loads_again(backbone: LlamaForCausalLM, tmp_path: Path) -> None:
    heads = eagle3_heads(fc_norm=True, own_embeddings=True)
    heads.save_pretrained(tmp_path)
    loaded = load_heads(tmp_path, backbone)
    assert isinstance(loaded, Eagle3Heads)
    assert torch.equal(logits_of(loaded, backbone), logits_of(heads, backbone))


def test_a_plain_state_dict_is_read(backbone: LlamaForCausalLM, tmp_path: Path) -> None:
    heads = eagle3_heads()
    loaded = load_heads(write_safeai(heads, tmp_path, binary=True), backbone)
    assert isinstance(loaded, Eagle3Heads)
    assert torch.equal(logits_of(loaded, backbone), logits_of(heads, backbone))


def test_a_projection_to_the_whole_vocabulary_needs_no_table(backbone: LlamaForCausalLM, tmp_path: Path) -> None:
    loaded = load_heads(write_safeai(eagle3_heads(full=True), tmp_path), backbone)
    assert loaded.draft_token_ids is None
    assert loaded.draftable == VOCAB


def test_the_layer_may_be_narrower_than_the_backbone(backbone: LlamaForCausalLM, tmp_path: Path) -> None:
    heads = eagle3_heads(width=8, own_embeddings=True)
    loaded = load_heads(write_speculators(heads, tmp_path), backbone)
    assert isinstance(loaded, Eagle3Heads)
    assert torch.equal(logits_of(loaded, backbone), logits_of(heads, backbone))


def test_layers_that_are_not_named_are_those_of_the_paper(tmp_path: Path) -> None:
    sizes = {name: LAYER[name] for name in ("intermediate_size", "num_attention_heads", "num_key_value_heads")}
    deep = LlamaForCausalLM(LlamaConfig(hidden_size=HIDDEN, vocab_size=VOCAB, num_hidden_layers=10, **sizes))
    folder = write_safeai(eagle3_heads(), tmp_path, eagle_config=None)
    assert load_heads(folder, deep).auxiliary_layers == (2, 5, 7)


def test_without_a_backbone_layers_stay_unnamed(backbone: LlamaForCausalLM, tmp_path: Path) -> None:
    loaded = load_heads(write_safeai(eagle3_heads(), tmp_path / "given", eagle_config=None))
    with pytest.raises(ValueError, match="name no auxiliary layers; load them with"):
        MedusaAparModel(backbone, loaded)
    for layout in WRITERS:
        save_eagle3(loaded, tmp_path / layout, layout)
        assert "eagle_aux_hidden_state_layer_ids" not in (tmp_path / layout / "config.json").read_text()


def test_a_draft_vocabulary_outside_the_backbones_is_named(backbone: LlamaForCausalLM, tmp_path: Path) -> None:
    heads = eagle3_heads()
    heads.draft_token_ids = torch.tensor([*DRAFTED[:-1], VOCAB])
    heads.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"draft_token_ids of these heads lie outside a vocabulary of {VOCAB}"):
        load_heads(tmp_path, backbone)


def test_it_decodes_without_loss(backbone: LlamaForCausalLM, tmp_path: Path) -> None:
    backbone.save_pretrained(tmp_path / "model")
    heads = write_speculators(eagle3_heads(), tmp_path / "heads")
    model = MedusaAparModel.from_pretrained(tmp_path / "model", heads=heads)
    ids = torch.tensor([[5, 6, 7]])
    plain: Any = backbone.generate(ids, max_new_tokens=20, do_sample=False)
    assert torch.equal(model.generate(ids, max_new_tokens=20, do_sample=False), plain)


@pytest.mark.parametrize("layout", WRITERS)
def test_they_are_exported_in_both_layouts(
    layout: CheckpointFormat, backbone: LlamaForCausalLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heads = eagle3_heads(own_embeddings=True, norm_before_residual=layout is CheckpointFormat.SPECULATORS)
    heads.draft_token_ids = torch.tensor(DRAFTED[::-1])
    heads.save_pretrained(tmp_path / "heads")
    heads_main(["export", str(tmp_path / "heads"), "--format", layout, "--output-dir", str(tmp_path / "out")])
    assert "wrote" in capsys.readouterr().out
    assert detect_format(tmp_path / "out") is layout
    loaded = load_heads(tmp_path / "out", backbone)
    assert isinstance(loaded, Eagle3Heads)
    assert loaded.draft_token_ids is not None
    assert loaded.draft_token_ids.tolist() == list(DRAFTED)
    assert torch.equal(logits_of(loaded, backbone).flip(-1), logits_of(heads, backbone))


def test_norms_that_a_layout_has_no_place_for_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no place for fc_norm, norm_output of these heads; export them as specul"):
        save_eagle3(eagle3_heads(fc_norm=True, norm_output=True), tmp_path, CheckpointFormat.EAGLE3)


def test_heads_of_another_kind_are_refused(backbone: LlamaForCausalLM, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no place for heads of another kind; export EAGLE-3 heads"):
        save_eagle3(MedusaHeads.for_backbone(backbone), tmp_path, CheckpointFormat.EAGLE3)


def test_inspect_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect(str(write_safeai(eagle3_heads(), tmp_path)))
    assert "EAGLE-3" in capsys.readouterr().out


def edit_weights(folder: Path, **changes: Tensor | None) -> None:
    path = folder / "model.safetensors"
    state: dict[str, Any] = load_file(path) | changes
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, path)


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no table": (lambda folder: edit_weights(folder, d2t=None), "has no `d2t`"),
    "ids twice": (
        lambda folder: edit_weights(folder, d2t=torch.tensor([1, 0, 0, 1, 3, 7, 14, 22])), "not sorted, occur twice",
    ),
    "ids outside": (
        lambda folder: edit_weights(folder, d2t=torch.tensor([1, 1, 1, 2, 4, 8, 15, 99])), "lie outside a vocabulary",
    ),
    "a table of another length": (lambda folder: edit_weights(folder, d2t=torch.arange(3)), r"`d2t` is \[3\]"),
    "no projection": (lambda folder: edit_weights(folder, **{"lm_head.weight": None}), "no matrix `lm_head.weight`"),
    "a tensor too few": (lambda folder: edit_weights(folder, **{"norm.weight": None}), "`norm.weight` is missing"),
    "a tensor too many": (lambda folder: edit_weights(folder, extra=torch.ones(1)), "`extra` is unknown"),
}  # fmt: skip


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("breaks", BROKEN.values(), ids=list(BROKEN))
def test_what_is_broken_is_named(
    layout: CheckpointFormat, breaks: tuple[Callable[[Path], None], str], backbone: LlamaForCausalLM, tmp_path: Path
) -> None:
    folder = WRITERS[layout](eagle3_heads(), tmp_path)
    breaks[0](folder)
    with pytest.raises(ValueError, match=breaks[1]):
        load_heads(folder, backbone)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speculators_model_type": "dflash"}, "speculators_model_type='dflash', which is not supported"),
        ({"transformer_layer_config": None}, "transformer_layer_config=None"),
        ({"speculators_config": [1]}, r"speculators_config=\[1\], which must be a JSON object"),
        ({"eagle_aux_hidden_state_layer_ids": "0 1 1"}, "='0 1 1', which must be a list of whole numbers"),
        ({"norm_before_fc": True, "fc_norm": True}, "two ways to normalise the same"),
        ({"eagle_aux_hidden_state_layer_ids": [0, 1]}, r"eagle_aux_hidden_state_layer_ids=\[0, 1\]"),
        ({"eagle_aux_hidden_state_layer_ids": [0, 1, 9]}, r"auxiliary_layers=\[9\] of these heads are none"),
        ({"target_hidden_size": 12}, "fuses 48 entries|hidden_size=12"),
    ],
)
def test_fields_that_are_not_supported_are_named(
    changes: dict[str, Any], message: str, backbone: LlamaForCausalLM, tmp_path: Path
) -> None:
    folder = write_speculators(eagle3_heads(), tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load_heads(folder, backbone)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("num_hidden_layers", 2, "num_hidden_layers=2"), ("model_type", "gemma3_text", "model_type='gemma3_text'")],
)
def test_layers_that_are_not_supported_are_named(
    field: str, value: Any, message: str, backbone: LlamaForCausalLM, tmp_path: Path
) -> None:
    folder = write_speculators(eagle3_heads(), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["transformer_layer_config"][field] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        load_heads(folder, backbone)


def test_pickled_code_is_refused(backbone: LlamaForCausalLM, tmp_path: Path) -> None:
    folder = write_safeai(eagle3_heads(), tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"d2t": print}))
    with pytest.raises((ValueError, OSError), match="refused"):
        load_heads(folder, backbone)
