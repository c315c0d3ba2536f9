"""Loading a backbone and its control tokens: from safetensors, a GGUF file, or a PEFT adapter."""

from __future__ import annotations

from pathlib import Path
from struct import error as StructError
from typing import Any

import transformers
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME

from .adapter import HUB_ARGUMENTS, PLACE_ARGUMENTS, adapter_config, given, is_adapter, merge
from .heads.checkpoints.checkpoint_files import first_line, read_json
from .heads.checkpoints.formats import holds_heads_alone
from .packaged import PACKAGES, packaged_model
from .tree.control_tokens import ControlTokens

_GGUF_CONFIG: Any = getattr(transformers, "GgufConfig", None)
_DEQUANTIZED = {} if _GGUF_CONFIG is None else {"quantization_config": _GGUF_CONFIG(dequantize=True)}
"""Weights of a GGUF file become plain ones, which can be trained and saved; older transformers does nothing else."""


def load_backbone(source: str, **kwargs: Any) -> PreTrainedModel:
    """Load a causal LM as `AutoModelForCausalLM.from_pretrained` does, with adapters merged.

    Args:
        source: a folder or a hub id, of a model or of a PEFT adapter.
        **kwargs: for `from_pretrained`.

    Raises:
        OSError: if a file is missing, truncated or corrupt.
        ValueError: if a config is broken, the folder holds heads, or an adapter cannot be merged into its base.
    """
    if kwargs.get("gguf_file"):
        kwargs = {**_DEQUANTIZED, **kwargs}
    else:
        source = local_source(source)
        check_folder(source, kwargs.get("subfolder"))
    try:
        if not kwargs.get("gguf_file") and is_adapter(source, **given(kwargs, *PLACE_ARGUMENTS, *HUB_ARGUMENTS)):
            return _merged(source, **kwargs)
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(source, **kwargs)
        return model
    except OSError as error:
        if source not in PACKAGES:
            raise
        raise OSError(f"{source!r} does not load ({error}); {_install_hint(source)}connect to the hub") from error
    except SafetensorError as error:
        raise OSError(f"the weights in {source!r} are truncated or corrupt ({error}); fetch them again") from error
    except (ValueError, LookupError, StructError) as error:  # the readers of GGUF files raise any of these
        if not kwargs.get("gguf_file"):
            raise
        raise OSError(
            f"{kwargs['gguf_file']} in {source!r} does not load ({first_line(error)}); fetch it again if it is "
            "truncated or corrupt, else take the model in safetensors"
        ) from error


def load_tokenizer(source: str | Path, **kwargs: Any) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model.

    Args:
        source: its folder or hub id.
        **kwargs: for `AutoTokenizer.from_pretrained`.

    Raises:
        OSError: if the files are missing or broken.
        ValueError: if a config is broken, or the folder holds heads.
    """
    if not kwargs.get("gguf_file"):
        source = local_source(str(source))
        check_folder(source, kwargs.get("subfolder"))
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, **kwargs)
    except Exception as error:  # every kind of tokenizer, and of GGUF file, has its own
        raise OSError(
            f"the tokenizer of {str(source)!r} does not load ({' '.join(str(error).split())}); "
            f"{_install_hint(str(source))}give a folder or hub id with a causal LM and its tokenizer"
        ) from error
    return tokenizer


def _install_hint(hub_id: str) -> str:
    """What to install where a package holds a model that the hub did not give; nothing for other models."""
    package = PACKAGES.get(hub_id)
    return "" if package is None else f"{package.install}, or "


def local_source(source: str) -> str:
    """A folder or hub id as it is, or the folder of the installed package that holds the model of a hub id."""
    return str(packaged_model(source, convert_gguf) or source)


def convert_gguf(file: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer as `save_pretrained` does.

    Raises:
        OSError: there is no such file, or it is truncated or corrupt.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is no file; give a GGUF file, the folder of a model, or a hub id")
    load_tokenizer(file.parent, gguf_file=file.name).save_pretrained(folder)
    load_backbone(str(file.parent), gguf_file=file.name).save_pretrained(folder)


def check_folder(source: str | Path, subfolder: str | None = None) -> None:
    """Raise a ValueError or OSError for what cannot be a model: a file, broken configs, heads without a backbone."""
    folder = Path(source, subfolder or "")
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file; give the folder of a model, or a hub id")
    for name in (CONFIG_NAME, GENERATION_CONFIG_NAME, "adapter_config.json"):
        if (folder / name).is_file():
            read_json(folder / name)
    if holds_heads_alone(folder):
        raise ValueError(f"{folder} holds draft heads and no model; give the folder of their backbone")


def find_control_tokens(config: PretrainedConfig, source: str, **kwargs: Any) -> ControlTokens:
    """The control tokens that a backbone's config records, else those of its tokenizer.

    Args:
        config: the backbone's.
        source: its folder or hub id.
        **kwargs: for `from_pretrained`, such as `gguf_file`.

    Raises:
        ValueError: if neither has any.
    """
    control = ControlTokens.of_config(config)
    if control is not None:
        return control
    options = given(kwargs, *PLACE_ARGUMENTS, *HUB_ARGUMENTS, "trust_remote_code", "gguf_file")
    try:
        return ControlTokens.of_tokenizer(load_tokenizer(source, **options))
    except OSError as error:
        raise ValueError(f"its config records no control tokens, and {error}") from error


def _merged(source: str, **kwargs: Any) -> PreTrainedModel:
    """The base that an adapter names, with the adapter merged."""
    where = given(kwargs, *PLACE_ARGUMENTS, *HUB_ARGUMENTS)
    adapter = adapter_config(source, **where)
    base = str(adapter.base_model_name_or_path)
    options = {name: value for name, value in kwargs.items() if name not in PLACE_ARGUMENTS}
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            local_source(base), revision=adapter.revision, **options
        )
    except (OSError, ValueError) as error:
        raise OSError(
            f"the adapter {source!r} names the base {base!r}, which does not load ({error}); {_install_hint(base)}"
            "correct base_model_name_or_path in its adapter_config.json, or load the merged model"
        ) from error
    return merge(model, adapter, source, **where)
