"""EAGLE-3 heads in the layouts that are published: SafeAILab's, and that of the speculators package.

Sources of the layouts: github.com/SafeAILab/EAGLE, `eagle/model/cnets.py`; github.com/vllm-project/speculators 0.9,
`speculators/models/eagle3`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..config import AUXILIARY_LAYERS, Eagle3HeadsConfig
from ..draft_heads import DraftHeads
from ..eagle3 import Eagle3Heads
from .checkpoint_files import (
    RETRIEVE,
    SAFETENSORS,
    SAFETENSORS_INDEX,
    first_line,
    is_draft_vocabulary,
    natural,
    read_pt,
    read_weights,
)
from .formats import CONFIG, EAGLE3_BIN, CheckpointFormat, writing

FIRST_LAYER = {CheckpointFormat.EAGLE3: "midlayer.", CheckpointFormat.SPECULATORS: "layers.0."}
"""What tensors of the decoder layer are called, by layout."""
NORMS = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")
LEVELS = 5
"""Tokens ahead that are drafted where a checkpoint does not say how many."""
UNUSED = re.compile(r"^(t2d$|verifier_|.*rotary_emb\.inv_freq$)")
"""Tensors that training or other engines need."""


def read_eagle3(values: dict[str, Any], folder: Path) -> tuple[Eagle3HeadsConfig, Path, dict[str, Tensor]]:
    """What a checkpoint in SafeAILab's layout holds.

    Returns:
        The heads' config, the file of the weights, and the weights, by their names in the file.

    Raises:
        ValueError: a field or tensor is wrong or not supported, or the file holds pickled code.
        OSError: the file is missing or broken.
    """
    nested = _object(values, "eagle_config", folder / CONFIG, {})
    layer = {name: value for name, value in values.items() if name not in ("architectures", "draft_vocab_size")}
    return _read(layer, {**nested, **values}, folder, LEVELS)


def read_speculators(values: dict[str, Any], folder: Path) -> tuple[Eagle3HeadsConfig, Path, dict[str, Tensor]]:
    """The same of a checkpoint in the layout of the speculators package."""
    path = folder / CONFIG
    kind = values.get("speculators_model_type")
    if kind != "eagle3":
        raise ValueError(f"{path} has speculators_model_type={kind!r}, which is not supported; use heads of 'eagle3'")
    methods = _object(values, "speculators_config", path, {}).get("proposal_methods")
    first = methods[0] if isinstance(methods, list) and methods and isinstance(methods[0], dict) else {}
    levels = natural(first, "speculative_tokens", path, default=LEVELS)
    return _read(_object(values, "transformer_layer_config", path), values, folder, levels)


def save_eagle3(heads: DraftHeads, folder: str | Path, layout: CheckpointFormat, backbone: str | None = None) -> None:
    """Write EAGLE-3 heads in a published layout.

    A failure leaves the folder's files as they were. Calibration and accuracy have no place in either layout.

    Args:
        heads: the heads to write.
        folder: where to write; created if need be.
        layout: `EAGLE3` or `SPECULATORS`.
        backbone: folder or hub id of the backbone, for the file of `SPECULATORS`.

    Raises:
        ValueError: these are no EAGLE-3 heads, SafeAILab's layout has no place for their norms, or the folder holds
            the `config.json` of something else.
        OSError: the folder cannot be written.
    """
    if not isinstance(heads, Eagle3Heads):
        raise ValueError(f"the layout of {layout} has no place for heads of another kind; export EAGLE-3 heads")
    shape = heads.config
    norms = {name: getattr(shape, name) for name in NORMS}
    layer = {**shape.layer_config.to_diff_dict(), "num_hidden_layers": 1, "vocab_size": shape.vocab_size}
    common = {
        "draft_vocab_size": shape.draft_vocab_size or shape.vocab_size,
        "target_hidden_size": shape.hidden_size,
        "dtype": str(heads.dtype).removeprefix("torch."),
    }
    named = {} if shape.auxiliary_layers is None else {"eagle_aux_hidden_state_layer_ids": shape.auxiliary_layers}
    if layout is CheckpointFormat.SPECULATORS:
        config = common | norms | named | {
            "architectures": ["Eagle3DraftModel"],
            "speculators_model_type": "eagle3",
            "speculators_config": {
                "algorithm": "eagle3",
                "default_proposal_method": "greedy",
                "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": shape.num_heads}],
                "verifier": {"name_or_path": backbone, "architectures": []},
            },
            "transformer_layer_config": layer,
        }  # fmt: skip
    elif any(norms.values()):
        has = ", ".join(name for name, value in norms.items() if value)
        raise ValueError(f"SafeAILab's layout has no place for {has} of these heads; export them as speculators")
    else:
        config = layer | common | {"architectures": ["LlamaForCausalLMEagle3"], "eagle_config": named}
    rename = eagle3_name(FIRST_LAYER[layout])
    state = {rename(name): tensor.detach().cpu().contiguous() for name, tensor in heads.state_dict().items()}
    tokens = state.pop("draft_token_ids", None)
    if tokens is not None:
        tokens, order = tokens.sort()
        state["lm_head.weight"] = state["lm_head.weight"][order]
        state["d2t"] = tokens - torch.arange(len(tokens))
        state["t2d"] = torch.zeros(shape.vocab_size, dtype=torch.bool).index_fill(0, tokens, True)
    with writing(Path(folder), layout) as partial:
        save_file(state, partial / SAFETENSORS, metadata={"format": "pt"})
        (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def eagle3_name(first_layer: str) -> Callable[[str], str]:
    """The renaming of our parameters to those of a layout whose decoder layer is called so."""
    return lambda name: re.sub(r"^layer\.", first_layer, name)


def _object(values: dict[str, Any], name: str, path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """A JSON object in a config, or the default where there is none."""
    value = values.get(name)
    value = default if value is None else value
    if not isinstance(value, dict):
        raise ValueError(f"{path} has {name}={value!r}, which must be a JSON object; {RETRIEVE}")
    return value


def _read(
    layer: dict[str, Any], values: dict[str, Any], folder: Path, levels: int
) -> tuple[Eagle3HeadsConfig, Path, dict[str, Tensor]]:
    """Join what the config says with what only the tensors tell.

    Args:
        layer: fields of the decoder layer's config.
        values: all others.
        folder: of the checkpoint.
        levels: tokens ahead that are drafted.
    """
    config_path = folder / CONFIG
    sizes = {name: natural(layer, name, config_path) for name in ("hidden_size", "vocab_size")}
    if (count := natural(layer, "num_hidden_layers", config_path, default=1)) != 1:
        raise ValueError(f"{config_path} has num_hidden_layers={count}; EAGLE-3 heads of one layer are supported")
    path, state = _weights(folder)
    projection = state.get("lm_head.weight")
    fusion = state.get("fc.weight")
    for name, tensor in (("lm_head.weight", projection), ("fc.weight", fusion)):
        if tensor is None or tensor.dim() != 2:
            raise ValueError(f"{path} has no matrix `{name}`; {RETRIEVE}")
    assert projection is not None
    assert fusion is not None
    state = {name: tensor for name, tensor in state.items() if not UNUSED.match(name)}
    draft_vocab_size = len(projection) if len(projection) != sizes["vocab_size"] or "d2t" in state else None
    if draft_vocab_size is not None:
        state["draft_token_ids"] = _draft_token_ids(state.pop("d2t", None), draft_vocab_size, sizes["vocab_size"], path)
    hidden_size = natural(values, "target_hidden_size", config_path, default=sizes["hidden_size"])
    auxiliary = values.get("eagle_aux_hidden_state_layer_ids")
    if auxiliary is not None and not (isinstance(auxiliary, list) and all(type(layer) is int for layer in auxiliary)):
        raise ValueError(
            f"{config_path} has eagle_aux_hidden_state_layer_ids={auxiliary!r}, which must be a list of whole numbers; "
            f"{RETRIEVE}"
        )
    if fusion.shape[1] != hidden_size * (AUXILIARY_LAYERS if auxiliary is None else len(auxiliary)):
        raise ValueError(
            f"{path} fuses {fusion.shape[1]} entries, but {config_path} has "
            f"eagle_aux_hidden_state_layer_ids={auxiliary} of {hidden_size} each; make them agree, or {RETRIEVE}"
        )
    try:
        config = Eagle3HeadsConfig(
            num_heads=levels,
            hidden_size=hidden_size,
            vocab_size=sizes["vocab_size"],
            layer_config=layer,
            auxiliary_layers=auxiliary,
            draft_vocab_size=draft_vocab_size,
            own_embeddings="embed_tokens.weight" in state,
            **{name: bool(values.get(name, False)) for name in NORMS},
        )
    except ValueError as error:
        raise ValueError(f"{config_path}: {first_line(error)}") from error
    return config, path, state


def _weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    if (folder / SAFETENSORS).is_file() or (folder / SAFETENSORS_INDEX).is_file():
        return read_weights(folder)
    return folder / EAGLE3_BIN, read_pt(folder / EAGLE3_BIN)


def _draft_token_ids(offsets: Tensor | None, count: int, vocab_size: int, path: Path) -> Tensor:
    """The tokens that a draft vocabulary stands for, from their offsets."""
    if offsets is None:
        raise ValueError(
            f"{path} drafts among {count} of {vocab_size} tokens, and has no `d2t` that says which; {RETRIEVE}"
        )
    if offsets.shape != (count,) or offsets.is_floating_point():
        raise ValueError(
            f"{path}: `d2t` is {list(offsets.shape)} of {offsets.dtype}, not [{count}] of int64; {RETRIEVE}"
        )
    tokens = torch.arange(count) + offsets.long()
    if not is_draft_vocabulary(tokens, vocab_size):
        raise ValueError(
            f"{path}: the tokens of `d2t` are not sorted, occur twice, or lie outside a vocabulary of {vocab_size}; "
            f"{RETRIEVE}"
        )
    return tokens
