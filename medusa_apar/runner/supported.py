"""Which causal LMs can be decoded under one mask per step; the others are refused by name."""

from __future__ import annotations

from transformers import PreTrainedModel

SUPPORTED_MODEL_TYPES = (
    "llama",
    "gemma2",
    "gemma3_text",
    "granite",
    "mistral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
)
"""Backbones that the losslessness tests cover."""

SUPPORTED_ATTENTION = ("sdpa", "eager")
SUPPORTED_LAYER_TYPES = ("full_attention", "sliding_attention")


def check_supported(model: PreTrainedModel) -> None:
    """Raise a ValueError that names what about a model is not supported, and the remedy."""
    if not isinstance(model, PreTrainedModel):
        merging = "pass its merge_and_unload()" if hasattr(model, "merge_and_unload") else "load one"
        raise ValueError(f"backbone is a {type(model).__name__}, no PreTrainedModel; {merging}")
    check_architecture(model)
    check_attention(model)


def check_architecture(model: PreTrainedModel) -> None:
    """Raise a ValueError that names what about a model's architecture is not supported, and the remedy."""
    config = model.config
    kind = f"backbone of model_type={config.model_type!r}"
    supported = f"supported are {', '.join(SUPPORTED_MODEL_TYPES)}"
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{kind} is an encoder-decoder model; use a decoder-only causal LM; {supported}")
    if getattr(model, "_is_stateful", False):
        raise ValueError(
            f"{kind} keeps a recurrent state, which cannot branch under an attention mask; "
            f"use a model of attention layers alone; {supported}"
        )
    if _has_alibi(model):
        raise ValueError(
            f"{kind} adds ALiBi biases by the place of a key, which says nothing about its position in a KV pool; "
            f"use a model with rotary positions; {supported}"
        )
    if config.model_type not in SUPPORTED_MODEL_TYPES:
        raise ValueError(f"{kind} is not supported; {supported}")
    if not hasattr(model, "lm_head"):
        raise ValueError(f"{type(model).__name__} has no lm_head; load the backbone with AutoModelForCausalLM")
    if getattr(config, "use_bidirectional_attention", False):
        raise ValueError(
            f"use_bidirectional_attention={config.use_bidirectional_attention!r} makes {kind} an encoder; "
            "use a causal LM"
        )
    unknown = set(getattr(config, "layer_types", None) or ()) - set(SUPPORTED_LAYER_TYPES)
    if unknown:
        raise ValueError(
            f"layer_types={sorted(unknown)} of the {kind} are not supported; "
            f"use a model whose layers are {' or '.join(SUPPORTED_LAYER_TYPES)}"
        )


def check_attention(model: PreTrainedModel) -> None:
    """Raise a ValueError unless the model's current attention implementation takes one mask per step."""
    attention = model.config._attn_implementation
    if attention not in SUPPORTED_ATTENTION:
        raise ValueError(
            f"attn_implementation={attention!r} takes no custom attention mask; "
            f"load the backbone with one of {', '.join(SUPPORTED_ATTENTION)}, or switch it by set_attn_implementation"
        )
    cap = getattr(model.config, "attn_logit_softcapping", None)
    if attention == "sdpa" and cap is not None:
        raise ValueError(
            f"attn_implementation={attention!r} leaves out attn_logit_softcapping={cap} of the backbone of "
            f"model_type={model.config.model_type!r}; load it with attn_implementation='eager'"
        )


def _has_alibi(model: PreTrainedModel) -> bool:
    config = model.config
    if config.model_type == "mpt":
        return bool(config.attn_config.alibi)
    return config.model_type == "bloom" or bool(getattr(config, "alibi", False))
