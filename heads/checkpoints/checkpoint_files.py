"""Reading the files of a checkpoint: JSON, safetensors and plain state dicts; nothing is ever unpickled."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
RETRIEVE = "copy or download the checkpoint again"


def first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({first_line(error)}); {RETRIEVE}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object; {RETRIEVE}")
    return values


def natural(values: Mapping[str, Any], name: str, path: Path, *, default: int | None = None, least: int = 1) -> int:
    value = values.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{path} has {name}={value!r}, which must be a whole number from {least}; {RETRIEVE}")
    return value


def is_draft_vocabulary(tokens: Tensor, vocab_size: int) -> bool:
    """Whether a tensor holds rising token ids of a vocabulary."""
    if tokens.dim() != 1 or tokens.is_floating_point() or not len(tokens):
        return False
    return not bool((tokens.diff() <= 0).any()) and int(tokens[0]) >= 0 and int(tokens[-1]) < vocab_size


def read_safetensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {RETRIEVE}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise OSError(f"{path} is truncated or corrupt ({first_line(error)}); {RETRIEVE}") from error


def read_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The weights that a folder holds in safetensors, whole or in shards, and the file that tells of them."""
    index, whole = folder / SAFETENSORS_INDEX, folder / SAFETENSORS
    if not index.is_file():
        return whole, read_safetensors(whole)
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise ValueError(f"{index} names no shards; {RETRIEVE}")
    shards = [folder / Path(shard).name for shard in sorted(set(weight_map.values()))]
    if whole.is_file() and not all(shard.is_file() for shard in shards):  # saving whole leaves an older index
        return whole, read_safetensors(whole)
    state: dict[str, Tensor] = {}
    for shard in shards:
        state |= read_safetensors(shard)
    return index, state


def read_pt(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {RETRIEVE}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise ValueError(
                f"{path} holds pickled code beside its tensors; it is refused and nothing of it was run; "
                "ask its author for safetensors, or for a plain state dict"
            ) from error
        raise OSError(
            f"{path} is no file of tensors: corrupt, or pickled code, which is refused and was not run; {RETRIEVE}"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything: KeyError, EOFError, UnicodeDecodeError, ...
        raise OSError(f"{path} is truncated or corrupt ({first_line(error)}); {RETRIEVE}") from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"{path} holds no state dict (tensors by name); save `medusa_head.state_dict()`")
    return dict(state)
