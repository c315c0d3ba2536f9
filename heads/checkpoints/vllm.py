"""Heads in vLLM's layout for `speculative_config={"method": "medusa", ...}`.

Source of the layout: vLLM 0.32 (github.com/vllm-project/vllm), `vllm/model_executor/models/medusa.py` and
`vllm/transformers_utils/configs/medusa.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from ..config import MedusaHeadsConfig
from ..draft_heads import DraftHeads
from ..medusa import MedusaHeads
from .checkpoint_files import RETRIEVE, SAFETENSORS, is_draft_vocabulary, natural, read_safetensors
from .formats import CONFIG, VLLM_MODEL_TYPE, CheckpointFormat, writing

_SHARED = "original_lm_head"
_BIAS = "medusa_fc_bias"
_TOKENS = "token_map"
"""The tokens of a draft vocabulary, `[truncated_vocab_size]`."""


def save_vllm(heads: DraftHeads, folder: str | Path, backbone: PreTrainedModel | None = None) -> None:
    """Write heads as vLLM's `config.json` and `model.safetensors`.

    A failure leaves the folder's files as they were. Calibration and accuracy have no place in this format.

    Args:
        heads: the heads to write.
        folder: where to write; created if need be.
        backbone: the causal LM of the heads; needed where they share its projection, which the file then holds once.

    Raises:
        ValueError: the format cannot express these heads, or the folder holds the `config.json` of something else.
        OSError: the folder cannot be written.
    """
    if not isinstance(heads, MedusaHeads):
        raise ValueError("vLLM's Medusa layout has no place for heads of another kind; export Medusa heads")
    if backbone is not None:
        heads.check_fits(backbone)
    state = {vllm_name(name): tensor for name, tensor in heads.whole_state().items()}
    shape = heads.config
    if shape.shared_projection:
        state["lm_heads.0.weight"] = heads.lm_head_of(backbone)
    config = {
        "model_type": VLLM_MODEL_TYPE,
        "architectures": ["MedusaModel"],
        "hidden_size": shape.hidden_size,
        "vocab_size": shape.vocab_size,
        "truncated_vocab_size": shape.draft_vocab_size or shape.vocab_size,
        "num_heads": shape.num_heads,
        "num_hidden_layers": shape.num_layers,
        _BIAS: True,
        _SHARED: shape.shared_projection,
        "dtype": str(heads.dtype).removeprefix("torch."),
    }
    with writing(Path(folder), CheckpointFormat.VLLM) as partial:
        save_file(state, partial / SAFETENSORS, metadata={"format": "pt"})
        (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_vllm(values: dict[str, Any], folder: Path) -> tuple[MedusaHeadsConfig, Path, dict[str, Tensor]]:
    """What a checkpoint in vLLM's layout holds.

    Returns:
        The heads' config, the file of the weights, and the weights, of which a shared projection is none.

    Raises:
        ValueError: a field or the draft vocabulary is wrong.
        OSError: the file is missing or broken.
    """
    path = folder / CONFIG
    sizes = {name: natural(values, name, path) for name in ("num_heads", "hidden_size", "vocab_size")}
    layers = natural(values, "num_hidden_layers", path, least=0)
    truncated = natural(values, "truncated_vocab_size", path, default=sizes["vocab_size"])
    shared = bool(values.get(_SHARED, False))
    state = read_safetensors(folder / SAFETENSORS)
    tokens = state.pop(_TOKENS, None)
    draft_vocab_size = None if truncated >= sizes["vocab_size"] else truncated
    if draft_vocab_size is not None:
        state |= _draft_vocabulary(state, tokens, draft_vocab_size, sizes, folder / SAFETENSORS)
        shared = False
    if shared:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("lm_head")}
    if not values.get(_BIAS, False):
        for name, weight in list(state.items()):
            if name.startswith("blocks."):
                state[name.replace(".weight", ".bias")] = torch.zeros(len(weight), dtype=weight.dtype)
    config = MedusaHeadsConfig(num_layers=layers, shared_projection=shared, draft_vocab_size=draft_vocab_size, **sizes)
    return config, folder / SAFETENSORS, state


def _draft_vocabulary(
    state: dict[str, Tensor], tokens: Tensor | None, count: int, sizes: dict[str, int], path: Path
) -> dict[str, Tensor]:
    """The draft vocabulary, and every head's own projection to it: a file may hold one for all, and rows of all tokens.

    Raises:
        ValueError: the draft vocabulary is not of `count` tokens, rising.
    """
    vocab_size = sizes["vocab_size"]
    if tokens is None or tokens.shape != (count,) or not is_draft_vocabulary(tokens, vocab_size):
        found = "is missing" if tokens is None else f"is {list(tokens.shape)} of {tokens.dtype}, or not rising"
        raise ValueError(
            f"{path}: `{_TOKENS}` {found}; truncated_vocab_size={count} needs so many rising token ids below "
            f"{vocab_size}; {RETRIEVE}"
        )
    tokens, first = tokens.long(), "lm_heads.0.weight"
    names = [f"lm_heads.{head}.weight" for head in range(sizes["num_heads"])]
    projections = {name: state.get(name, state.get(first)) for name in names}
    return {_TOKENS: tokens} | {
        name: rows[tokens] if len(rows) == vocab_size else rows
        for name, rows in projections.items()
        if rows is not None
    }


def vllm_name(name: str) -> str:
    """Rename a parameter of ours: `heads.3.blocks.0.linear.bias` is `blocks.3.layers.0.bias` there."""
    if name == "draft_token_ids":
        return _TOKENS
    _, head, *rest = name.split(".")
    if rest[0] == "projection":
        return f"lm_heads.{head}.weight"
    _, layer, _, kind = rest
    return f"blocks.{head}.layers.{layer}.{kind}"
