"""Loading: adapters, heads beside the weights, and what a model says of what it lacks."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from medusa_apar import ControlTokens, MedusaAparModel
from medusa_apar.adapter import save_adapted_config
from medusa_apar.heads.checkpoints.loading import load_heads
from medusa_apar.heads.checkpoints.medusa_llm import save_medusa_llm

from .conftest import CHILD, EOS, FORK, SHAPE, VOCABULARY, forking_backbone, random_heads
from .engine.test_lossless import batch

ADDED = ControlTokens(VOCABULARY, VOCABULARY + 1)


def save_tokenizer(folder: Path, control: ControlTokens) -> None:
    names = {control.fork_token_id: "[Fork]", control.child_token_id: "[Child]"}
    words = {names.get(token, f"w{token}"): token for token in range(VOCABULARY + 2)}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words))).save_pretrained(folder)


def answers(model: MedusaAparModel) -> torch.Tensor:
    _, ids, mask = batch(lengths=(5, 7))
    sequences = model.generate(ids, attention_mask=mask, max_new_tokens=30, do_sample=False)
    assert isinstance(sequences, torch.Tensor)
    return sequences


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A backbone without control tokens."""
    torch.manual_seed(0)
    folder = tmp_path / "base"
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(folder)
    return folder


def adapted(base: Path, *, grown: int = 2, **options: Any) -> PeftModel:
    """A base with as many new tokens, and a random adapter."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base)
    if grown:
        model.resize_token_embeddings(VOCABULARY + grown)
    torch.manual_seed(1)
    wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **options))
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "modules_to_save" in name or "trainable_tokens" in name:
                weight += torch.randn_like(weight) * 0.3
    return wrapped


ADAPTERS: dict[str, dict[str, Any]] = {
    "of projections alone": {"target_modules": ["q_proj", "v_proj"]},
    "with whole embeddings": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "with embeddings of some tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [ADDED.fork_token_id]},
    "of all projections": {"target_modules": "all-linear"},
}


@pytest.mark.parametrize("options", ADAPTERS.values(), ids=list(ADAPTERS))
def test_an_adapter_decodes_as_the_merged_model(base: Path, options: dict[str, Any], tmp_path: Path) -> None:
    wrapped = adapted(base, **options)
    wrapped.save_pretrained(tmp_path / "adapter")
    save_tokenizer(tmp_path / "adapter", ADDED)
    merged: Any = wrapped.merge_and_unload()
    ADDED.record_in(merged.config)
    loaded = MedusaAparModel.from_pretrained(tmp_path / "adapter")
    assert type(loaded.backbone) is LlamaForCausalLM
    assert loaded.control == ADDED
    assert torch.equal(answers(loaded), answers(MedusaAparModel(merged)))


def test_an_adapter_that_transformers_has_loaded_decodes_as_the_merged_model(base: Path, tmp_path: Path) -> None:
    wrapped = adapted(base, grown=0, target_modules=["q_proj", "down_proj", "lm_head"])
    wrapped.save_pretrained(tmp_path / "adapter")
    unmerged = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    merged: Any = wrapped.merge_and_unload()
    options = {"fork_token_id": FORK, "child_token_id": CHILD}
    assert torch.equal(
        answers(MedusaAparModel(unmerged.double(), **options)), answers(MedusaAparModel(merged.double(), **options))
    )


def test_an_adapter_keeps_the_depth_the_control_tokens_and_the_bias_of_its_training(base: Path, tmp_path: Path) -> None:
    wrapped = adapted(base, target_modules=["q_proj"])
    wrapped.save_pretrained(tmp_path)
    config: Any = wrapped.config
    config.thread_depth, config.fork_bias = 5, 1.25
    ADDED.record_in(config)
    save_adapted_config(config, tmp_path)
    loaded = MedusaAparModel.from_pretrained(tmp_path)
    assert loaded.control == replace(ADDED, fork_bias=1.25)
    assert loaded.config.thread_depth == 5


def test_an_adapter_brings_its_generation_config(base: Path, tmp_path: Path) -> None:
    adapted(base, target_modules=["q_proj"]).save_pretrained(tmp_path)
    GenerationConfig(do_sample=True, temperature=0.2, eos_token_id=EOS).save_pretrained(tmp_path)
    loaded = MedusaAparModel.from_pretrained(tmp_path)
    assert loaded.generation_config.do_sample
    assert loaded.generation_config.temperature == 0.2


def test_an_adapter_is_saved_merged_or_as_it_was(base: Path, tmp_path: Path) -> None:
    tokens = [ADDED.fork_token_id, ADDED.child_token_id]
    wrapped = adapted(base, target_modules=["q_proj"], trainable_token_indices=tokens)
    wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    save_tokenizer(tmp_path / "adapter", ADDED)
    ADDED.record_in(wrapped.config)
    save_adapted_config(wrapped.config, tmp_path / "adapter")
    loaded = MedusaAparModel.from_pretrained(tmp_path / "adapter")
    with_heads = MedusaAparModel.from_pretrained(tmp_path / "adapter", heads=random_heads(loaded.backbone))
    with_heads.save_pretrained(tmp_path / "again", adapter_only=True)
    with_heads.save_pretrained(tmp_path / "merged")
    assert not (tmp_path / "again" / "config.json").exists()
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    for name in ("again", "merged"):
        again = MedusaAparModel.from_pretrained(tmp_path / name)
        assert again.heads is not None
        assert again.control == ADDED
        assert torch.equal(answers(again), answers(with_heads)), name


def test_saving_an_adapter_asks_for_one(base: Path, tmp_path: Path) -> None:
    plain = MedusaAparModel.from_pretrained(base)
    with pytest.raises(ValueError, match="adapter_only=True: this model was not loaded from an adapter; leave it out"):
        plain.save_pretrained(tmp_path / "out", adapter_only=True)
    adapted(base, target_modules=["q_proj"]).save_pretrained(tmp_path / "adapter")
    model = MedusaAparModel.from_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="push_to_hub=True uploads merged weights"):
        model.save_pretrained(tmp_path / "out", adapter_only=True, push_to_hub=True)
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(OSError, match=r"adapter_model\.safetensors of the adapter .* is not there; save the merged"):
        model.save_pretrained(tmp_path / "out", adapter_only=True)


def test_spare_rows_of_a_base_stay(base: Path, tmp_path: Path) -> None:
    """A base may have more rows than its tokenizer has tokens."""
    adapted(base, grown=0, target_modules=["q_proj"]).save_pretrained(tmp_path / "adapter")
    words = Tokenizer(WordLevel({"[Fork]": 0, "[Child]": 1}))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path / "adapter")
    loaded = MedusaAparModel.from_pretrained(tmp_path / "adapter", dtype=torch.bfloat16)
    assert loaded.config.vocab_size == VOCABULARY
    assert {weight.dtype for weight in loaded.backbone.parameters()} == {torch.bfloat16}


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_an_adapter_without_its_base_is_named(base: Path, tmp_path: Path) -> None:
    adapted(base, target_modules=["q_proj"]).save_pretrained(tmp_path / "adapter")
    edit(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(tmp_path / "moved"))
    with pytest.raises(OSError, match=r"adapter' names the base '.*moved', which does not load .* or load the merged"):
        MedusaAparModel.from_pretrained(tmp_path / "adapter")


def test_an_adapter_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    adapted(base, target_modules=["q_proj"]).save_pretrained(tmp_path / "adapter")
    other = LlamaForCausalLM(LlamaConfig(**SHAPE | {"hidden_size": 48}))
    other.save_pretrained(tmp_path / "other")
    edit(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"does not fit its base '.*other' .* load the merged model"):
        MedusaAparModel.from_pretrained(tmp_path / "adapter")


def test_an_adapter_that_cannot_be_merged_is_refused(base: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    prefix = get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    prefix.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="is a PREFIX_TUNING adapter, which cannot be merged; use LoRA"):
        MedusaAparModel.from_pretrained(tmp_path / "adapter")


# Heads in medusa-llm's layout, beside the weights of their backbone


def beside(folder: Path, num_layers: int, **recorded: object) -> MedusaAparModel:
    """A model whose folder has medusa-llm's heads beside its weights, and these fields in its `config.json`."""
    backbone = forking_backbone(dtype=torch.float32)
    heads = random_heads(backbone)
    if num_layers != 1:
        heads = type(heads).for_backbone(backbone, num_heads=2, num_layers=num_layers)
    backbone.save_pretrained(folder)
    save_medusa_llm(heads, folder / "exported", "somebody/base")
    (folder / "exported" / "medusa_lm_head.pt").rename(folder / "medusa_lm_head.pt")
    edit(folder / "config.json", **recorded)
    return MedusaAparModel(backbone, heads)


@pytest.mark.parametrize("num_layers", [0, 1, 2])
@pytest.mark.parametrize("recorded", [True, False], ids=["fields in config.json", "tensors alone"])
def test_heads_beside_the_weights_are_found(num_layers: int, recorded: bool, tmp_path: Path) -> None:
    fields = {"medusa_num_heads": 2, "medusa_num_layers": num_layers} if recorded else {}
    model = beside(tmp_path, num_layers, **fields)
    loaded = MedusaAparModel.from_pretrained(tmp_path, dtype=torch.float32)
    assert loaded.heads is not None
    assert model.heads is not None
    theirs = model.heads.state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in loaded.heads.state_dict().items())
    assert torch.equal(answers(loaded), answers(model))


def test_heads_beside_a_gguf_file_need_no_config(tmp_path: Path) -> None:
    model = beside(tmp_path, 1)
    (tmp_path / "config.json").unlink()
    assert load_heads(tmp_path, model.backbone).config.num_heads == 3


def test_an_export_does_not_replace_the_config_of_a_backbone(tmp_path: Path) -> None:
    model = beside(tmp_path, 1, medusa_num_heads=3)
    before = (tmp_path / "config.json").read_bytes()
    assert model.heads is not None
    with pytest.raises(ValueError, match="belongs to another checkpoint, which would be lost"):
        save_medusa_llm(model.heads, tmp_path, "somebody/base")
    assert (tmp_path / "config.json").read_bytes() == before


# What is missing is said once


Save = Callable[[Path], None]


def without_anything(folder: Path) -> None:
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(folder)


def without_control_tokens(folder: Path) -> None:
    without_anything(folder)
    random_heads(AutoModelForCausalLM.from_pretrained(folder)).save_pretrained(folder / "heads")


def without_heads(folder: Path) -> None:
    forking_backbone(dtype=torch.float32).save_pretrained(folder)


def whole(folder: Path) -> None:
    backbone = forking_backbone(dtype=torch.float32)
    MedusaAparModel(backbone, random_heads(backbone)).save_pretrained(folder)


NO_HEADS = (
    "does not draft: it has none of heads/config.json, medusa/config.json, medusa_lm_head.safetensors, "
    "medusa_lm_head.pt; name its heads by heads="
)
NO_TOKENIZER = "does not fork: its config records no control tokens, and the tokenizer of"


@pytest.mark.parametrize(
    ("save", "options", "said"),
    [
        (whole, {}, []),
        (whole, {"heads": False}, []),
        (without_heads, {}, [NO_HEADS]),
        (without_heads, {"heads": False}, []),
        (without_control_tokens, {}, [NO_TOKENIZER]),
        (without_anything, {}, [NO_HEADS, NO_TOKENIZER]),
    ],
)
def test_a_model_says_in_one_line_what_it_lacks(
    save: Save, options: dict[str, Any], said: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path)
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="medusa_apar"):
        loaded = MedusaAparModel.from_pretrained(tmp_path, **options)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("medusa_apar")]
    assert len(lines) == bool(said)
    for part in said:
        assert part in lines[0]
        assert "\n" not in lines[0]
    assert (loaded.heads is None) == (NO_HEADS in said or options.get("heads") is False)


def test_a_tokenizer_without_control_tokens_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    without_control_tokens(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": EOS}))).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="medusa_apar"):
        MedusaAparModel.from_pretrained(tmp_path)
    assert f"does not fork: tokenizer '{tmp_path}' has no control tokens '[Fork]' and '[Child]'; train" in caplog.text
