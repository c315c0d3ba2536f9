"""Checkpoints of Medusa heads: our own and medusa-llm's.

Source of the second layout: medusa-llm 0.1 (github.com/FasterDecoding/Medusa), `medusa/model/medusa_model.py` and
`medusa/train/train.py`.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import tempfile
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from .config import MedusaHeadsConfig
from .modeling import MedusaHeads

CONFIG = "config.json"
SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
MEDUSA_LLM_PT = "medusa_lm_head.pt"
MEDUSA_LLM_SAFETENSORS = "medusa_lm_head.safetensors"

_RETRIEVE = "copy or download the checkpoint again"


class CheckpointFormat(StrEnum):
    """Layouts that `load_heads` tells apart by `config.json`.

    Attributes:
        MEDUSA_APAR: what `MedusaHeads.save_pretrained` writes.
        MEDUSA_LLM: what medusa-llm's training writes: `medusa_lm_head.pt`, or `.safetensors` since its version 1.0.
    """

    MEDUSA_APAR = "medusa-apar"
    MEDUSA_LLM = "medusa-llm"


_WEIGHT_FILES = {
    CheckpointFormat.MEDUSA_APAR: ["model*.safetensors", SAFETENSORS_INDEX],
    CheckpointFormat.MEDUSA_LLM: [MEDUSA_LLM_PT, MEDUSA_LLM_SAFETENSORS],
}


def load_heads(
    source: str | Path,
    backbone: PreTrainedModel | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> MedusaHeads:
    """Load heads from a checkpoint of either format.

    medusa-llm's number of heads is that of its tensors where these hold more than its `config.json` says: published
    checkpoints say 2 and hold 5.

    Args:
        source: a folder, or an id on the Hugging Face hub.
        backbone: the causal LM that the heads will sit on; their sizes must agree.
        dtype: dtype of the heads; by default the backbone's, without one the checkpoint's.
        device: device of the heads; by default the backbone's, without one the CPU.

    Returns:
        The heads in evaluation mode.

    Raises:
        FileNotFoundError: a folder or file is missing.
        OSError: a file is truncated or corrupt.
        ValueError: the checkpoint has neither format, holds pickled code (never executed), contradicts itself, or does
            not fit the backbone.
    """
    checkpoint_format = detect_format(source)
    folder = _locate(source, [CONFIG, *_WEIGHT_FILES[checkpoint_format]])
    values = _read_json(folder / CONFIG)
    rename: Callable[[str], str]
    if checkpoint_format is CheckpointFormat.MEDUSA_LLM:
        path, state = _read_medusa_llm_weights(folder)
        config = _medusa_llm_config(values, state, path)
        rename = _medusa_llm_name(config.num_layers)
    else:
        path, state = _read_own_weights(folder)
        config = _own_config(values, folder / CONFIG)
        rename = str
    if backbone is not None:
        dtype = dtype or backbone.dtype
        device = device or backbone.get_output_embeddings().weight.device
    heads = _fill(config, state, path, rename, dtype, device)
    if backbone is not None:
        heads.check_fits(backbone)
    return heads


def detect_format(source: str | Path) -> CheckpointFormat:
    """Tell which format a checkpoint has.

    Raises:
        FileNotFoundError: there is no such folder or hub id, or it has no `config.json`.
        ValueError: `config.json` is broken or belongs to something else.
    """
    folder = _locate(source, [CONFIG])
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; pass a folder that holds a checkpoint of heads{_hint(folder)}")
    values = _read_json(path)
    if values.get("model_type") == MedusaHeadsConfig.model_type:
        return CheckpointFormat.MEDUSA_APAR
    if "medusa_num_heads" in values:
        return CheckpointFormat.MEDUSA_LLM
    raise ValueError(
        f"{path} is no config of Medusa heads: it has neither model_type={MedusaHeadsConfig.model_type!r} nor "
        f"medusa_num_heads; pass a folder that holds a checkpoint of heads{_hint(folder)}"
    )


def save_medusa_llm(
    heads: MedusaHeads,
    folder: str | Path,
    base_model_name_or_path: str,
    backbone: PreTrainedModel | None = None,
) -> None:
    """Write heads as medusa-llm's `config.json` and `medusa_lm_head.pt`.

    Both files are written under temporary names first, so a failure leaves the folder's files as they were.
    Calibration and accuracy have no place in this format.

    Args:
        heads: the heads to write.
        folder: where to write; created if need be.
        base_model_name_or_path: the backbone that medusa-llm is to load beside them.
        backbone: the causal LM of the heads; needed where they share its projection, which this format repeats in
            every head.

    Raises:
        ValueError: the format cannot express these heads, or the folder holds the `config.json` of something else.
        OSError: the folder cannot be written.
    """
    state = _medusa_llm_state(heads, backbone)
    config = {
        "base_model_name_or_path": base_model_name_or_path,
        "medusa_num_heads": heads.config.num_heads,
        "medusa_num_layers": heads.config.num_layers,
    }
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; name a folder to write to")
    if (folder / CONFIG).exists() and detect_format(folder) is not CheckpointFormat.MEDUSA_LLM:
        raise ValueError(f"{folder / CONFIG} belongs to another checkpoint, which would be lost; name an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
        weights, description = Path(partial) / MEDUSA_LLM_PT, Path(partial) / CONFIG
        try:
            torch.save(state, weights)
        except RuntimeError as error:
            raise OSError(f"cannot write {folder / MEDUSA_LLM_PT}: {_first_line(error)}; free some space") from error
        description.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        os.replace(weights, folder / MEDUSA_LLM_PT)
        os.replace(description, folder / CONFIG)


def _locate(source: str | Path, patterns: list[str]) -> Path:
    """Return the local folder of a checkpoint, fetched from the hub if it is an id there."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise NotADirectoryError(f"{source} is a file; pass the folder that holds {CONFIG} and the weights")
    try:
        return Path(snapshot_download(str(source), allow_patterns=patterns))
    except HFValidationError as error:
        raise FileNotFoundError(f"heads at {source} not found: no such folder; check the path") from error
    except OSError as error:
        raise FileNotFoundError(
            f"heads at {source} not found: no such folder, and the Hugging Face hub did not give them "
            f"({_first_line(error)}); check the path, the id and the network"
        ) from error


def _hint(folder: Path) -> str:
    """Name the subfolders of a whole model's folder that could have been meant."""
    found = [str(folder / name) for name in ("heads", "medusa") if (folder / name / CONFIG).is_file()]
    return f", such as {' or '.join(found)}" if found else ""


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({_first_line(error)}); {_RETRIEVE}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object; {_RETRIEVE}")
    return values


def _natural(values: Mapping[str, Any], name: str, path: Path, *, default: int | None = None, least: int = 1) -> int:
    value = values.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{path} has {name}={value!r}, which must be a whole number from {least}; {_RETRIEVE}")
    return value


def _own_config(values: dict[str, Any], path: Path) -> MedusaHeadsConfig:
    for name in ("num_heads", "hidden_size", "vocab_size"):
        _natural(values, name, path)
    _natural(values, "num_layers", path, least=0)
    try:
        config = MedusaHeadsConfig.from_dict(values)
    except Exception as error:  # transformers lets each bad field raise in its own way
        raise ValueError(f"{path} is no valid config ({_first_line(error)}); {_RETRIEVE}") from error
    temperatures = config.calibration_temperature
    if len(temperatures) != config.num_heads or not all(temperature > 0 for temperature in temperatures):
        raise ValueError(
            f"{path} has calibration_temperature={temperatures} for {config.num_heads} heads; "
            "give one number above 0 per head, or an empty list for ones"
        )
    return config


def _medusa_llm_config(values: dict[str, Any], state: Mapping[str, Tensor], path: Path) -> MedusaHeadsConfig:
    """Join what medusa-llm's `config.json` says with what only the tensors tell."""
    config_path = path.parent / CONFIG
    declared_heads = _natural(values, "medusa_num_heads", config_path)
    num_layers = _natural(values, "medusa_num_layers", config_path, default=1, least=0)
    projection = state.get(f"0.{num_layers}.weight")
    if projection is None or projection.dim() != 2:
        raise ValueError(
            f"{path} has no matrix `0.{num_layers}.weight`, the first head's projection for "
            f"medusa_num_layers={num_layers} in {config_path}; correct the config, or {_RETRIEVE}"
        )
    vocab_size, hidden_size = projection.shape
    return MedusaHeadsConfig(
        num_heads=max(declared_heads, len({name.split(".")[0] for name in state})),
        num_layers=num_layers,
        hidden_size=hidden_size,
        vocab_size=vocab_size,
    )


def _medusa_llm_name(num_layers: int) -> Callable[[str], str]:
    """Return the renaming of our parameters to medusa-llm's: `heads.3.blocks.0.linear.bias` is `3.0.linear.bias`."""

    def rename(name: str) -> str:
        name = name.removeprefix("heads.").replace(".projection.", f".{num_layers}.")
        return re.sub(r"^(\d+)\.blocks\.", r"\1.", name)

    return rename


def _medusa_llm_state(heads: MedusaHeads, backbone: PreTrainedModel | None) -> dict[str, Tensor]:
    config = heads.config
    state = {name: tensor.detach().cpu() for name, tensor in heads.state_dict().items()}
    if backbone is not None:
        heads.check_fits(backbone)
    if config.shared_projection:
        if backbone is None:
            raise ValueError(
                "these heads share the backbone's lm_head, which medusa-llm's format repeats in every head; "
                "give the backbone too (`--backbone`)"
            )
        lm_head = backbone.get_output_embeddings()
        if getattr(lm_head, "bias", None) is not None:
            raise ValueError("the backbone's lm_head has a bias, which medusa-llm's heads cannot express")
        weight = lm_head.weight.detach().to(heads.dtype).cpu()
        state |= {f"heads.{head}.projection.weight": weight for head in range(config.num_heads)}
    for head in range(config.num_heads):
        for layer in range(1, config.num_layers):
            for name in ("weight", "bias"):
                block = f"heads.{head}.blocks.{{}}.linear.{name}"
                # medusa-llm builds `[ResBlock(...)] * num_layers`: one block, applied several times.
                if not torch.equal(state[block.format(layer)], state[block.format(0)]):
                    raise ValueError(
                        f"these heads have {config.num_layers} different residual blocks each, but medusa-llm applies "
                        "one block several times and would give other logits; train heads with num_layers=1"
                    )
    rename = _medusa_llm_name(config.num_layers)
    return {rename(name): tensor for name, tensor in state.items()}


def _read_own_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    index = folder / SAFETENSORS_INDEX
    if not index.is_file():
        return folder / SAFETENSORS, _read_safetensors(folder / SAFETENSORS)
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise ValueError(f"{index} names no shards; {_RETRIEVE}")
    state: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        state |= _read_safetensors(folder / Path(shard).name)
    return index, state


def _read_medusa_llm_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    safetensors = folder / MEDUSA_LLM_SAFETENSORS
    if safetensors.is_file():
        return safetensors, _read_safetensors(safetensors)
    return folder / MEDUSA_LLM_PT, _read_pt(folder / MEDUSA_LLM_PT)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {_RETRIEVE}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise OSError(f"{path} is truncated or corrupt ({_first_line(error)}); {_RETRIEVE}") from error


def _read_pt(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {_RETRIEVE}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise ValueError(
                f"{path} holds pickled code beside its tensors; it is refused and nothing of it was run; "
                "ask its author for safetensors, or for a plain state dict"
            ) from error
        raise OSError(
            f"{path} is no file of tensors: corrupt, or pickled code, which is refused and was not run; {_RETRIEVE}"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything: KeyError, EOFError, UnicodeDecodeError, ...
        raise OSError(f"{path} is truncated or corrupt ({_first_line(error)}); {_RETRIEVE}") from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"{path} holds no state dict (tensors by name); save `medusa_head.state_dict()`")
    return dict(state)


def _fill(
    config: MedusaHeadsConfig,
    state: dict[str, Tensor],
    path: Path,
    rename: Callable[[str], str],
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> MedusaHeads:
    """Build heads from a state dict, which it empties.

    Args:
        config: the heads' config.
        state: tensors by the names that the file gives them.
        path: the file, for messages.
        rename: turns one of our parameters' names into the file's.
        dtype: dtype of the heads, or None for that of the first tensor.
        device: device of the heads, or None for the CPU.

    Raises:
        ValueError: a tensor is missing, superfluous, of another shape, or not of floating point.
    """
    with torch.device("meta"):
        heads = MedusaHeads(config)
    expected = {rename(name): tensor.shape for name, tensor in heads.state_dict().items()}
    shape_of_heads = (
        f"{config.num_heads} heads of {config.num_layers} layers, hidden_size={config.hidden_size}, "
        f"vocab_size={config.vocab_size}, shared_projection={config.shared_projection}"
    )
    problems = [f"`{name}` is missing" for name in expected if name not in state]
    problems += [f"`{name}` is unknown" for name in state if name not in expected]
    for name, shape in expected.items():
        if name in state and state[name].shape != shape:
            problems.append(f"`{name}` is {list(state[name].shape)} where {list(shape)} is due")
        elif name in state and not state[name].is_floating_point():
            problems.append(f"`{name}` is {state[name].dtype}, not floating point")
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"{path} does not hold {shape_of_heads}: {', '.join(problems[:3])}{more}; "
            f"make it and {CONFIG} agree, or {_RETRIEVE}"
        )
    dtype = dtype or next(iter(state.values())).dtype
    owned = {
        name: state.pop(rename(name)).to(device=device, dtype=dtype, copy=True).contiguous()
        for name in heads.state_dict()
    }
    heads.load_state_dict(owned, assign=True)
    heads.eval()  # type: ignore[no-untyped-call]
    return heads
