"""EAGLE-3 checkpoints as they are published, written from heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from medusa_apar.heads import Eagle3Heads

LAYER_FIELDS = (
    "model_type", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "rms_norm_eps", "hidden_act", "max_position_embeddings", "vocab_size", "attention_bias",
)  # fmt: skip


def state_of(heads: Eagle3Heads, layer: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint whose decoder layer is called so."""
    state = {
        name.replace("layer.", layer, 1) if name.startswith("layer.") else name: tensor.clone()
        for name, tensor in heads.state_dict().items()
        if name != "draft_token_ids"
    }
    tokens = heads.draft_token_ids
    if tokens is not None:
        state["d2t"] = tokens - torch.arange(len(tokens))
        state["t2d"] = torch.zeros(heads.config.vocab_size, dtype=torch.bool).index_fill(0, tokens, True)
    return state


def layer_fields(heads: Eagle3Heads) -> dict[str, Any]:
    layer = heads.config.layer_config
    return {name: getattr(layer, name) for name in LAYER_FIELDS if hasattr(layer, name)} | {
        "num_hidden_layers": 1, "rope_theta": layer.rope_parameters["rope_theta"],
    }  # fmt: skip


def write_safeai(heads: Eagle3Heads, folder: Path, *, binary: bool = False, **changes: Any) -> Path:
    """SafeAILab's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    config = layer_fields(heads) | {
        "architectures": ["LlamaForCausalLMEagle3"],
        "draft_vocab_size": heads.config.draft_vocab_size or heads.config.vocab_size,
        "eagle_config": {"eagle_aux_hidden_state_layer_ids": heads.config.auxiliary_layers},
        "target_hidden_size": heads.config.hidden_size,
    }
    (folder / "config.json").write_text(json.dumps(config | changes))
    state = state_of(heads, "midlayer.")
    if binary:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors")
    return folder


def write_speculators(heads: Eagle3Heads, folder: Path, **changes: Any) -> Path:
    """The layout of the speculators package."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = heads.config
    config = {
        "architectures": ["Eagle3DraftModel"],
        "speculators_model_type": "eagle3",
        "speculators_version": "0.9.0",
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": shape.num_heads}],
            "verifier": {"name_or_path": None, "architectures": ["LlamaForCausalLM"]},
        },
        "transformer_layer_config": layer_fields(heads),
        "draft_vocab_size": shape.draft_vocab_size or shape.vocab_size,
        "eagle_aux_hidden_state_layer_ids": shape.auxiliary_layers,
        "target_hidden_size": shape.hidden_size,
        **{name: getattr(shape, name) for name in ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")},
    }
    (folder / "config.json").write_text(json.dumps(config | changes))
    state = state_of(heads, "layers.0.")
    save_file(state | {"verifier_norm.weight": torch.ones(shape.hidden_size)}, folder / "model.safetensors")
    return folder
