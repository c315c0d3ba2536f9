"""Every supported backbone is decoded losslessly; what is not supported is refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PretrainedConfig,
    PreTrainedModel,
)

from medusa_apar import MedusaAparModel, MedusaHeads
from medusa_apar.kv_cache.placement import Placement
from medusa_apar.runner.model_runner import ModelRunner

from ..conftest import CONTROL, EOS, FORK, SHAPE, VOCABULARY, random_heads
from ..engine.test_lossless import batch, decode
from ..oracle import Oracle

MAX_DEPTH = 3
WINDOW = 6
"""Of sliding layers; far shorter than the threads."""

SLIDING = {"sliding_window": WINDOW}
ALTERNATING = {**SLIDING, "layer_types": ["sliding_attention", "full_attention"] * 2, "num_hidden_layers": 4}
LONGROPE = {
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 24,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 4.0, 8.0, 16.0],
    },
}
DYNAMIC = {
    "max_position_embeddings": 24,
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
}
BACKBONES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "llama": ("llama", 1, {}),
    "llama, as many key-value heads": ("llama", 3, {"num_key_value_heads": 4}),
    "llama, one key-value head": ("llama", 9, {"num_key_value_heads": 1}),
    "mistral": ("mistral", 1, {"sliding_window": None}),
    "mistral, sliding": ("mistral", 11, SLIDING),
    "qwen2": ("qwen2", 4, {}),
    "qwen2, sliding": ("qwen2", 7, {"use_sliding_window": True, "max_window_layers": 1, **SLIDING}),
    "qwen3": ("qwen3", 10, {"head_dim": 8}),
    "qwen3, sliding": ("qwen3", 2, {"head_dim": 8, "use_sliding_window": True, "max_window_layers": 1, **SLIDING}),
    "gemma2": ("gemma2", 12, {"head_dim": 8, "query_pre_attn_scalar": 8, **ALTERNATING}),
    "gemma3_text": ("gemma3_text", 9, {"head_dim": 8, **ALTERNATING}),
    "gemma3_text, tied": ("gemma3_text", 13, {"head_dim": 8, "tie_word_embeddings": True, **ALTERNATING}),
    "phi3": ("phi3", 0, {"sliding_window": None}),
    "phi3, sliding": ("phi3", 1, SLIDING),
    "olmo2": ("olmo2", 11, {}),
    "granite": ("granite", 9, {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.8}),
}
"""By name: model type, a seed with which the random weights fork often and write long varied threads, own config."""

CASES = [
    (name, attention)
    for name in BACKBONES
    for attention in ("sdpa", "eager")
    if (name, attention) != ("gemma2", "sdpa")
]


def config(name: str, **overrides: Any) -> PretrainedConfig:
    model_type, _, own = BACKBONES[name]
    made: PretrainedConfig = AutoConfig.for_model(model_type, **copy.deepcopy({**SHAPE, **own, **overrides}))
    CONTROL.record_in(made)
    return made


def backbone(name: str, attention: str = "eager", dtype: torch.dtype = torch.float64, **own: Any) -> PreTrainedModel:
    """A random backbone that chooses `[Fork]` and EOS often."""
    torch.manual_seed(BACKBONES[name][1])
    model = AutoModelForCausalLM.from_config(config(name, **own), attn_implementation=attention).to(dtype).eval()
    with torch.no_grad():
        model.lm_head.weight[FORK] *= 2.2
        model.lm_head.weight[EOS] *= 2.0
    return model


@cache
def oracle_of(name: str) -> Oracle:
    return Oracle(backbone(name), CONTROL, EOS, MAX_DEPTH)


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_every_supported_backbone_is_decoded_losslessly(name: str, attention: str) -> None:
    model = backbone(name, attention)
    assert model.config._attn_implementation == attention
    _, ids, mask = batch(seed=4, lengths=(5, 9, 3, 7))
    output = decode(MedusaAparModel(model, random_heads(model)), ids, mask, nodes_per_step=12)
    assert output.trees is not None
    threads = [thread for tree in output.trees for thread in tree.threads]
    assert len(threads) > 5, "the tiny backbone should fork"
    assert sum(len(thread.own_token_ids) > 2 * WINDOW for thread in threads) > 3, "threads should outgrow the window"
    assert sum(oracle_of(name).check(tree) for tree in output.trees) == 0


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_chunks_in_scattered_slots_give_the_plain_logits(name: str, attention: str) -> None:
    model = backbone(name, attention)
    wrapped = ModelRunner(model)
    tokens = torch.randint(4, VOCABULARY, (1, 30), generator=torch.Generator().manual_seed(0))
    (pool,) = wrapped.new_pools(1, capacity=20)
    row = pool.open_row()
    logits: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, 30, 10):
            gap = pool.acquire(3)
            positions, alone = np.arange(start, start + 10), np.zeros(10, dtype=np.int64)
            placement = Placement.acquire([pool], alone, np.full(10, row), positions, np.tri(10, dtype=np.bool_))
            logits.append(wrapped.forward(placement, tokens[0, start : start + 10].numpy())[0])
            pool.show(row, placement.slots)
            pool.give_back(gap)
        assert torch.allclose(torch.cat(logits), model(tokens).logits[0], atol=1e-4)  # eager softmax is float32


LONGROPE = {
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 24,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 4.0, 8.0, 16.0],
    },
}
DYNAMIC = {
    "max_position_embeddings": 24,
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
}


@pytest.mark.parametrize(
    ("name", "rope"),
    [("llama", LONGROPE), ("phi3", {**LONGROPE, "original_max_position_embeddings": 24}), ("llama", DYNAMIC)],
    ids=["longrope", "longrope of Phi-3", "dynamic"],
)
def test_rotary_frequencies_that_depend_on_the_length_are_used_up_to_the_original_length(
    name: str, rope: dict[str, Any]
) -> None:
    model = backbone(name, **rope)
    wrapped = MedusaAparModel(model, random_heads(model))
    _, ids, mask = batch(seed=4, lengths=(5, 9, 3, 7))
    with torch.inference_mode():
        model(torch.randint(4, VOCABULARY, (1, 60)))  # leaves frequencies that are those of a long text
    output = decode(wrapped, ids, mask, nodes_per_step=12, max_new_tokens=200)
    assert output.trees is not None
    threads = [thread for tree in output.trees for thread in tree.threads]
    assert max(len(thread.token_ids) for thread in threads) == 24
    assert {thread.finish_reason for thread in threads} == {"context", "eos"}
    oracle = Oracle(model, CONTROL, EOS, MAX_DEPTH)
    assert sum(oracle.check(tree) for tree in output.trees) == 0
    with pytest.raises(ValueError, match="has 24 tokens, but the backbone's context holds 24; shorten it"):
        wrapped.generate(torch.full((1, 24), 5), max_new_tokens=4)


_TINY = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
_REFUSED: dict[str, tuple[Callable[[], PreTrainedModel], str]] = {
    "encoder-decoder": (
        lambda: AutoModelForSeq2SeqLM.from_config(
            AutoConfig.for_model("t5", vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
        ),
        "model_type='t5' is an encoder-decoder model; use a decoder-only causal LM; supported are llama, ",
    ),
    "mamba": (
        lambda: AutoModelForCausalLM.from_config(AutoConfig.for_model("mamba", **_TINY)),
        "model_type='mamba' keeps a recurrent state, .*; use a model of attention layers alone",
    ),
    "rwkv": (
        lambda: AutoModelForCausalLM.from_config(AutoConfig.for_model("rwkv", **{**_TINY, "num_hidden_layers": 2})),
        "model_type='rwkv' keeps a recurrent state, .*; use a model of attention layers alone",
    ),
    "bloom": (
        lambda: AutoModelForCausalLM.from_config(AutoConfig.for_model("bloom", **_TINY)),
        "model_type='bloom' adds ALiBi biases .*; use a model with rotary positions",
    ),
    "mpt": (
        lambda: AutoModelForCausalLM.from_config(
            AutoConfig.for_model("mpt", vocab_size=VOCABULARY, d_model=32, n_layers=1, n_heads=4)
        ),
        "model_type='mpt' adds ALiBi biases .*; use a model with rotary positions",
    ),
    "falcon with ALiBi": (
        lambda: AutoModelForCausalLM.from_config(AutoConfig.for_model("falcon", **_TINY, alibi=True)),
        "model_type='falcon' adds ALiBi biases .*; use a model with rotary positions",
    ),
    "falcon": (
        lambda: AutoModelForCausalLM.from_config(AutoConfig.for_model("falcon", **_TINY, alibi=False)),
        "model_type='falcon' is not supported; supported are llama, ",
    ),
    "no lm_head": (
        lambda: AutoModel.from_config(config("llama")),
        "LlamaModel has no lm_head; load the backbone with AutoModelForCausalLM",
    ),
    "an encoder": (
        lambda: backbone("gemma3_text", use_bidirectional_attention=True),
        "use_bidirectional_attention=True .*; use a causal LM",
    ),
    "other layers": (
        lambda: backbone("qwen3", layer_types=["full_attention", "chunked_attention"]),
        r"layer_types=\['chunked_attention'\] .* are not supported; use a model whose layers are full_attention or ",
    ),
    "flex attention": (
        lambda: backbone("llama", "flex_attention"),
        "attn_implementation='flex_attention' takes no custom attention mask; load the backbone with one of sdpa",
    ),
    "flash attention": (
        lambda: _as_if_loaded_with("llama", "flash_attention_2"),
        "attn_implementation='flash_attention_2' takes no custom attention mask; load the backbone with one of sdpa",
    ),
    "gemma2 with sdpa": (
        lambda: _as_if_loaded_with("gemma2", "sdpa"),
        "attn_implementation='sdpa' leaves out attn_logit_softcapping=50.0 .*'gemma2'; load it with .*'eager'",
    ),
}


def _as_if_loaded_with(name: str, attention: str) -> PreTrainedModel:
    """What transformers itself refuses to load here."""
    model = backbone(name)
    model.config._attn_implementation_internal = attention
    return model


@pytest.mark.parametrize(("make", "message"), _REFUSED.values(), ids=list(_REFUSED))
def test_what_is_not_supported_is_refused_by_name(make: Callable[[], PreTrainedModel], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MedusaAparModel(make())


DEVICE_MAPS: dict[str, str | dict[str, str]] = {
    "one device": "cpu",
    "some layers on the disk": {
        "model.embed_tokens": "disk",
        "model.rotary_emb": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.norm": "cpu",
        "lm_head": "disk",
    },
    "all on the disk": {"": "disk"},
}


@pytest.mark.integration
@pytest.mark.parametrize("shared_projection", [False, True])
@pytest.mark.parametrize("device_map", DEVICE_MAPS.values(), ids=list(DEVICE_MAPS))
def test_a_backbone_spread_by_a_device_map_is_decoded_losslessly(
    device_map: str | dict[str, str], shared_projection: bool, tmp_path: Path
) -> None:
    whole = backbone("llama", dtype=torch.float32)
    whole.save_pretrained(tmp_path / "model")
    model = MedusaAparModel.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offloaded", dtype=torch.float32
    )
    heads = MedusaHeads.for_backbone(model.backbone, num_heads=3, shared_projection=shared_projection)
    assert heads.device == torch.device("cpu")
    assert shared_projection or torch.equal(heads.heads[0].projection.weight, whole.lm_head.weight)
    heads.save_pretrained(tmp_path / "heads")
    model = MedusaAparModel.from_pretrained(
        tmp_path / "model",
        heads=tmp_path / "heads",
        device_map=device_map,
        offload_folder=tmp_path / "offloaded",
        dtype=torch.float32,
    )
    _, ids, mask = batch(seed=4, lengths=(5, 9, 3, 7))
    forwards = {name: vars(module).get("forward") for name, module in model.backbone.named_modules()}
    output = decode(model, ids, mask, nodes_per_step=12)
    assert forwards == {name: vars(module).get("forward") for name, module in model.backbone.named_modules()}
    assert output.trees is not None
    assert sum(len(tree.threads) for tree in output.trees) > 5
    oracle = Oracle(whole, CONTROL, EOS, MAX_DEPTH)
    for tree in output.trees:
        oracle.check(tree)
