"""A backbone and its heads as files that medusa-llm 0.1 reads: plain float32 Llama weights, and its heads format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from medusa_apar.heads.checkpoints.medusa_llm import write_medusa_llm
from medusa_apar.model import MedusaAparModel

BACKBONE_FOLDER = "backbone"
HEADS_FOLDER = "heads"
_ROPE_THETA = 10000.0


def export(model: MedusaAparModel, folder: Path) -> tuple[Path, Path]:
    """Write backbone and heads.

    The backbone computes what the original does, with two changes that both sides of a comparison share. Grouped
    key and value heads are repeated, because medusa-llm's cache has one per query head. And the output rows of
    control tokens become the mean of all others: such a logit is the mean of the other logits, so never the largest,
    and greedy decoding is that of the original with control tokens suppressed, without a logits processor.

    Args:
        model: with heads, in float32.
        folder: where to write `backbone` and `heads`.

    Returns:
        The two folders.

    Raises:
        ValueError: if the model has no heads, or medusa-llm cannot express its backbone.
        OSError: if the folder cannot be written.
    """
    backbone, heads = folder / BACKBONE_FOLDER, folder / HEADS_FOLDER
    if model.heads is None:
        raise ValueError("the model has no heads, and medusa-llm decodes with heads alone; give a model that has some")
    check_expressible(model.backbone)
    backbone.mkdir(parents=True, exist_ok=True)
    control = model.control
    state = plain_state(model.backbone, [] if control is None else [control.fork_token_id, control.child_token_id])
    save_file(state, backbone / "model.safetensors", metadata={"format": "pt"})
    (backbone / "config.json").write_text(json.dumps(plain_config(model.backbone), indent=2) + "\n", encoding="utf-8")
    write_medusa_llm(model.heads, heads, str(backbone.resolve()), model.backbone)
    return backbone, heads


def check_expressible(backbone: PreTrainedModel) -> None:
    """Raise a ValueError that names what about a backbone medusa-llm's private copy of Llama does not know."""
    config = backbone.config
    rope = getattr(config, "rope_parameters", None) or {}
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for name, value, known in (
        ("model_type", config.model_type, "llama"),
        ("rope_type", rope.get("rope_type", "default"), "default"),
        ("rope_theta", rope.get("rope_theta", _ROPE_THETA), _ROPE_THETA),
        ("attention_bias", getattr(config, "attention_bias", False), False),
        ("mlp_bias", getattr(config, "mlp_bias", False), False),
        ("head_dim", head_dim, config.hidden_size // config.num_attention_heads),
    ):
        if value != known:
            raise ValueError(
                f"backbone has {name}={value!r}, but medusa-llm 0.1 decodes with {known!r} alone; "
                "compare on a Llama that has it"
            )


def plain_state(backbone: PreTrainedModel, unreachable: list[int]) -> dict[str, Tensor]:
    """Float32 weights by name, with one key and value head per query head.

    Args:
        backbone: a Llama.
        unreachable: tokens that greedy decoding is never to choose.
    """
    config = backbone.config
    groups = config.num_attention_heads // config.num_key_value_heads
    head_dim = config.hidden_size // config.num_attention_heads
    state: dict[str, Tensor] = {}
    for name, parameter in cast(nn.Module, backbone).named_parameters():
        weight = parameter.detach().to("cpu", torch.float32)
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            heads = weight.view(-1, head_dim, weight.shape[-1])
            weight = heads.repeat_interleave(groups, dim=0).flatten(0, 1)
        state[name] = weight.contiguous()
    lm_head = backbone.get_output_embeddings().weight.detach().to("cpu", torch.float32).clone()
    reachable = torch.ones(len(lm_head), dtype=torch.bool)
    reachable[unreachable] = False
    lm_head[~reachable] = lm_head[reachable].mean(dim=0)
    state["lm_head.weight"] = lm_head
    return state


def plain_config(backbone: PreTrainedModel) -> dict[str, Any]:
    """A `config.json` that transformers of 2023 and of today read alike."""
    config = backbone.config
    same = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
        "max_position_embeddings", "rms_norm_eps", "bos_token_id", "eos_token_id", "pad_token_id",
    )  # fmt: skip
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **{name: getattr(config, name) for name in same},
        "num_key_value_heads": config.num_attention_heads,
        "pretraining_tp": 1,
        "rope_theta": _ROPE_THETA,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
