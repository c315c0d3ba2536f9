"""Loading heads from a checkpoint of any format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..backbone_weights import execution_device
from ..config import Eagle3HeadsConfig, HeadsConfig
from ..draft_heads import DraftHeads
from ..eagle3 import default_layers
from ..kinds import KINDS
from ..medusa import MedusaHeads
from ..sequential import SequentialHeads
from .checkpoint_files import RETRIEVE, first_line, natural, read_json, read_weights
from .eagle3_files import FIRST_LAYER, eagle3_name, read_eagle3, read_speculators
from .formats import CONFIG, WEIGHT_FILES, CheckpointFormat, detect_format, locate
from .medusa_llm import medusa_llm_config, medusa_llm_name, read_medusa_llm_weights
from .vllm import read_vllm, vllm_name


def load_heads(
    source: str | Path,
    backbone: PreTrainedModel | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **hub: Any,
) -> DraftHeads:
    """Load heads from a checkpoint of any format.

    medusa-llm's number of heads is that of its tensors where these hold more than its `config.json` says: published
    checkpoints say 2 and hold 5. Where its weights lie beside a backbone's, `config.json` is the backbone's and may say
    nothing of heads; the tensors then say all.

    Args:
        source: a folder, or an id on the Hugging Face hub.
        backbone: the causal LM that the heads will sit on; their sizes must agree.
        dtype: dtype of the heads; by default the backbone's, without one the checkpoint's.
        device: device of the heads; by default the backbone's, without one the CPU.
        **hub: for `snapshot_download`, such as `token`.

    Returns:
        The heads in evaluation mode.

    Raises:
        FileNotFoundError: a folder or file is missing.
        OSError: a file is truncated or corrupt.
        ValueError: the checkpoint has none of the formats, holds pickled code (never executed), contradicts itself, or
            does not fit the backbone.
    """
    checkpoint_format = detect_format(source, **hub)
    folder = locate(source, [CONFIG, *WEIGHT_FILES[checkpoint_format]], **hub)
    values = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    rename: Callable[[str], str] = str
    config: HeadsConfig
    if checkpoint_format is CheckpointFormat.MEDUSA_LLM:
        path, state = read_medusa_llm_weights(folder)
        config = medusa = medusa_llm_config(values, state, path)
        rename = medusa_llm_name(medusa.num_layers)
    elif checkpoint_format is CheckpointFormat.VLLM:
        config, path, state = read_vllm(values, folder)
        rename = vllm_name
    elif checkpoint_format in (CheckpointFormat.EAGLE3, CheckpointFormat.SPECULATORS):
        read = read_eagle3 if checkpoint_format is CheckpointFormat.EAGLE3 else read_speculators
        config, path, state = read(values, folder)
        rename = eagle3_name(FIRST_LAYER[checkpoint_format])
    else:
        path, state = read_weights(folder)
        config = _own_config(values, folder / CONFIG)
    if backbone is not None and isinstance(config, Eagle3HeadsConfig) and config.auxiliary_layers is None:
        config.auxiliary_layers = default_layers(backbone.config.get_text_config().num_hidden_layers)
    if backbone is not None:
        dtype = dtype or backbone.dtype
        device = device or execution_device(backbone.get_output_embeddings())
    heads = _fill(config, state, path, rename, dtype, device)
    if backbone is not None:
        heads.check_fits(backbone)
    return heads


def _own_config(values: dict[str, Any], path: Path) -> HeadsConfig:
    for name in ("num_heads", "hidden_size", "vocab_size"):
        natural(values, name, path)
    kind = KINDS[values["model_type"]]
    if kind is MedusaHeads:
        natural(values, "num_layers", path, least=0)
        if values.get("projection_rank") is not None:
            natural(values, "projection_rank", path)
    elif kind is SequentialHeads:
        natural(values, "intermediate_size", path)
    if values.get("draft_vocab_size") is not None:
        natural(values, "draft_vocab_size", path, least=2)
    try:
        config = cast(type[HeadsConfig], kind.config_class).from_dict(values)
    except Exception as error:  # transformers lets each bad field raise in its own way
        raise ValueError(f"{path} is no valid config ({first_line(error)}); {RETRIEVE}") from error
    temperatures = config.calibration_temperature
    if len(temperatures) != config.num_heads or not all(temperature > 0 for temperature in temperatures):
        raise ValueError(
            f"{path} has calibration_temperature={temperatures} for {config.num_heads} heads; "
            "give one number above 0 per head, or an empty list for ones"
        )
    return config


def _fill(
    config: HeadsConfig,
    state: dict[str, Tensor],
    path: Path,
    rename: Callable[[str], str],
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> DraftHeads:
    """Build heads from a state dict, which it empties.

    Args:
        config: the heads' config.
        state: tensors by the names that the file gives them.
        path: the file, for messages.
        rename: turns one of our parameters' names into the file's.
        dtype: dtype of the heads, or None for that of the first parameter.
        device: device of the heads, or None for the CPU.

    Raises:
        ValueError: a tensor is missing, superfluous, of another shape, or of another kind of numbers.
    """
    with torch.device("meta"):
        heads: DraftHeads = KINDS[config.model_type](config)
    expected = {rename(name): tensor for name, tensor in heads.state_dict().items()}
    sizes = ", ".join(f"{name}={value}" for name, value in config.shape.items())
    problems = [f"`{name}` is missing" for name in expected if name not in state]
    problems += [f"`{name}` is unknown" for name in state if name not in expected]
    for name, due in expected.items():
        if name in state and state[name].shape != due.shape:
            problems.append(f"`{name}` is {list(state[name].shape)} where {list(due.shape)} is due")
        elif name in state and state[name].is_floating_point() != due.is_floating_point():
            kind = "floating point" if due.is_floating_point() else str(due.dtype)
            problems.append(f"`{name}` is {state[name].dtype}, not {kind}")
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"{path} does not hold heads of {sizes}: {', '.join(problems[:3])}{more}; "
            f"make it and {CONFIG} agree, or {RETRIEVE}"
        )
    dtype = dtype or next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())
    owned = {
        name: state.pop(rename(name))
        .to(device=device, dtype=dtype if due.is_floating_point() else due.dtype, copy=True)
        .contiguous()
        for name, due in heads.state_dict().items()
    }
    heads.load_state_dict(owned, assign=True)
    heads.eval()  # type: ignore[no-untyped-call]
    return heads
