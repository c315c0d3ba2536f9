"""Loading a backbone and its control tokens: from safetensors, a GGUF file, or a PEFT adapter."""

from __future__ import annotations

import json
from pathlib import Path
from struct import error as StructError
from typing import Any

import transformers
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from .control_tokens import ControlTokens
from .heads.checkpoint_files import first_line, read_json
from .heads.formats import holds_heads_alone
from .packaged import PACKAGES, packaged_model

HUB_ARGUMENTS = ("token", "cache_dir", "local_files_only", "force_download")
"""Arguments of `from_pretrained` that say how to ask the hub, for whatever is fetched."""
PLACE_ARGUMENTS = ("revision", "subfolder")
"""Arguments of `from_pretrained` that say where in a repository the model lies."""
_GGUF_CONFIG: Any = getattr(transformers, "GgufConfig", None)
_DEQUANTIZED = {} if _GGUF_CONFIG is None else {"quantization_config": _GGUF_CONFIG(dequantize=True)}
"""Weights of a GGUF file become plain ones, which can be trained and saved; older transformers does nothing else."""
ADAPTED_CONFIG = "backbone_config.json"
"""File beside an adapter: the config of the backbone that it makes of its base."""


def given(arguments: dict[str, Any], *names: str) -> dict[str, Any]:
    """Those of some keyword arguments that are given."""
    return {name: arguments[name] for name in names if name in arguments}


def load_backbone(source: str, **kwargs: Any) -> PreTrainedModel:
    """Load a causal LM as `AutoModelForCausalLM.from_pretrained` does, with adapters merged.

    Args:
        source: a folder or a hub id, of a model or of a PEFT adapter.
        **kwargs: for `from_pretrained`.

    Raises:
        OSError: if a file is missing, truncated or corrupt.
        ValueError: if a config is broken, the folder holds heads, or an adapter cannot be merged into its base.
        ImportError: if PEFT, or what reads a GGUF file, is not installed.
    """
    if kwargs.get("gguf_file"):
        kwargs = {**_DEQUANTIZED, **kwargs}
    else:
        source = local_source(source)
        check_folder(source, kwargs.get("subfolder"))
    try:
        if is_adapter(source, **kwargs):
            return _merged(source, **kwargs)
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(source, **kwargs)
        return model
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
            f"the tokenizer of {str(source)!r} does not load ({' '.join(str(error).split())}); give a folder or hub id "
            "with a causal LM and its tokenizer"
        ) from error
    return tokenizer


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


def is_adapter(source: str, **kwargs: Any) -> bool:
    """Whether a folder or repository holds an adapter and no model of its own; takes what `from_pretrained` takes."""
    if kwargs.get("gguf_file") or Path(source, kwargs.get("subfolder") or "", CONFIG_NAME).is_file():
        return False
    where = given(kwargs, *PLACE_ARGUMENTS, *HUB_ARGUMENTS)
    return find_adapter_config_file(source, **where) is not None


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


def save_adapted_config(config: PretrainedConfig, folder: Path) -> None:
    """Write the config of an adapted backbone beside its adapter, where `load_backbone` finds it."""
    config.to_json_file(folder / ADAPTED_CONFIG)


def _merged(source: str, **kwargs: Any) -> PreTrainedModel:
    """The base that an adapter names, with the adapter merged; its embeddings grow to the adapter's."""
    try:
        from peft import PeftConfig, PeftModel
        from peft.utils import load_peft_weights
    except ModuleNotFoundError as error:
        raise ImportError(f"{source!r} is a PEFT adapter, and PEFT is not installed: pip install peft") from error
    where = given(kwargs, *PLACE_ARGUMENTS, *HUB_ARGUMENTS)
    adapter = PeftConfig.from_pretrained(source, **where)
    if adapter.is_prompt_learning:
        raise ValueError(f"{source!r} is a {adapter.peft_type.value} adapter, which cannot be merged; use LoRA")
    base = str(adapter.base_model_name_or_path)
    options = {name: value for name, value in kwargs.items() if name not in PLACE_ARGUMENTS}
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            local_source(base), revision=adapter.revision, **options
        )
    except (OSError, ValueError) as error:
        package = PACKAGES.get(base)
        install = "" if package is None else f"{package.install}, or "
        raise OSError(
            f"the adapter {source!r} names the base {base!r}, which does not load ({error}); {install}correct "
            "base_model_name_or_path in its adapter_config.json, or load the merged model"
        ) from error
    rows = max(
        _embedding_rows(model, load_peft_weights(source, device="cpu", **where)),
        1 + max(_trained_tokens(adapter), default=-1),
    )
    if rows > model.config.get_text_config().vocab_size:
        model.resize_token_embeddings(rows, mean_resizing=False)
    try:
        adapted = PeftModel.from_pretrained(model, source, autocast_adapter_dtype=False, **where)
    except RuntimeError as error:  # torch's for weights of another shape
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(
            f"the adapter {source!r} does not fit its base {base!r} ({reason}); correct base_model_name_or_path in "
            "its adapter_config.json, or load the merged model, the result of merge_and_unload()"
        ) from error
    merged: PreTrainedModel = adapted.merge_and_unload()
    if cached_file(source, GENERATION_CONFIG_NAME, _raise_exceptions_for_missing_entries=False, **where) is not None:
        merged.generation_config = GenerationConfig.from_pretrained(source, **where)
    recorded = cached_file(source, ADAPTED_CONFIG, _raise_exceptions_for_missing_entries=False, **where)
    if recorded is not None:
        values = json.loads(Path(recorded).read_text(encoding="utf-8"))
        for name in ("fork_token_id", "child_token_id", "thread_depth"):
            if name in values:
                setattr(merged.config, name, values[name])
    return merged


def _trained_tokens(adapter: Any) -> list[int]:
    """Tokens whose embeddings alone an adapter brings along."""
    tokens = getattr(adapter, "trainable_token_indices", None) or []
    return [token for each in tokens.values() for token in each] if isinstance(tokens, dict) else list(tokens)


def _embedding_rows(model: PreTrainedModel, state: dict[str, Any]) -> int:
    """Tokens of the input embeddings that an adapter brings along; 0 where it has none."""
    embeddings = model.get_input_embeddings()
    path = next(name for name, module in model.named_modules() if module is embeddings)
    return max(
        (len(weight) for name, weight in state.items() if f".{path}." in name and name.endswith(".weight")), default=0
    )
