"""PEFT adapters: what base they name, merging them into it, and what is saved beside their weights."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from .heads.checkpoints.checkpoint_files import read_json

if TYPE_CHECKING:
    from peft import PeftConfig

HUB_ARGUMENTS = ("token", "cache_dir", "local_files_only", "force_download")
"""Arguments of `from_pretrained` that say how to ask the hub, for whatever is fetched."""
PLACE_ARGUMENTS = ("revision", "subfolder")
"""Arguments of `from_pretrained` that say where in a repository the model lies."""
ADAPTED_CONFIG = "backbone_config.json"
"""File beside an adapter: the config of the backbone that it makes of its base."""
FILES = ("adapter_config.json", "adapter_model.safetensors")


def given(arguments: dict[str, Any], *names: str) -> dict[str, Any]:
    """Those of some keyword arguments that are given."""
    return {name: arguments[name] for name in names if name in arguments}


def is_adapter(source: str, **where: Any) -> bool:
    """Whether a folder or repository holds an adapter and no model of its own.

    Args:
        source: folder or hub id.
        **where: of `PLACE_ARGUMENTS` and `HUB_ARGUMENTS`.
    """
    if Path(source, where.get("subfolder") or "", CONFIG_NAME).is_file():
        return False
    return find_adapter_config_file(source, **where) is not None


def adapter_config(source: str, **where: Any) -> PeftConfig:
    """The config of an adapter, which names its base.

    Raises:
        ValueError: it is no adapter that can be merged.
    """
    from peft import PeftConfig  # here, because importing it takes seconds

    adapter: Any = PeftConfig.from_pretrained(source, **where)
    if adapter.is_prompt_learning:
        raise ValueError(f"{source!r} is a {adapter.peft_type.value} adapter, which cannot be merged; use LoRA")
    config: PeftConfig = adapter
    return config


def merge(model: PreTrainedModel, adapter: PeftConfig, source: str, **where: Any) -> PreTrainedModel:
    """Merge an adapter into its base, whose embeddings grow to the adapter's.

    Args:
        model: the base.
        adapter: the adapter's config.
        source: folder or hub id of the adapter.
        **where: of `PLACE_ARGUMENTS` and `HUB_ARGUMENTS`.

    Raises:
        ValueError: the adapter does not fit.
    """
    from peft import PeftModel
    from peft.utils import load_peft_weights

    rows = max(
        _embedding_rows(model, load_peft_weights(source, device="cpu", **where)),
        1 + max(_trained_tokens(adapter), default=-1),
    )
    if rows > model.config.get_text_config().vocab_size:
        model.resize_token_embeddings(rows, mean_resizing=False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft reads the old name
            adapted = PeftModel.from_pretrained(model, source, autocast_adapter_dtype=False, **where)
    except RuntimeError as error:  # torch's for weights of another shape
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(
            f"the adapter {source!r} does not fit its base {adapter.base_model_name_or_path!r} ({reason}); correct "
            "base_model_name_or_path in its adapter_config.json, or load the merged model, the result of "
            "merge_and_unload()"
        ) from error
    merged: PreTrainedModel = adapted.merge_and_unload()
    if _found(source, GENERATION_CONFIG_NAME, where) is not None:
        merged.generation_config = GenerationConfig.from_pretrained(source, **where)
    recorded = adapted_config(source, **where)
    for name in ("fork_token_id", "child_token_id", "thread_depth", "fork_bias"):
        if hasattr(recorded, name):
            setattr(merged.config, name, getattr(recorded, name))
    return merged


def adapted_config(source: str, **where: Any) -> PretrainedConfig | None:
    """The config of the backbone that an adapter makes of its base; None where none lies beside it.

    Raises:
        OSError: it is no JSON object.
        ValueError: it is of an unknown kind of model.
    """
    file = _found(source, ADAPTED_CONFIG, where)
    if file is None:
        return None
    values = read_json(Path(file))
    config: PretrainedConfig = AutoConfig.for_model(values.pop("model_type", "none"), **values)
    return config


def save_adapted_config(config: PretrainedConfig, folder: Path) -> None:
    """Write the config of an adapted backbone beside its adapter, where `merge` finds it."""
    config.to_json_file(folder / ADAPTED_CONFIG)


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """The files of an adapter that was merged.

    Attributes:
        source: folder or hub id.
        where: of `PLACE_ARGUMENTS` and `HUB_ARGUMENTS`.
    """

    source: str
    where: dict[str, Any]

    def copy_to(self, folder: Path) -> None:
        """Write the adapter as it was loaded into another folder.

        Raises:
            OSError: it is no longer where it was, or its weights are not in safetensors.
        """
        for name in (*FILES, ADAPTED_CONFIG):
            file = _found(self.source, name, self.where)
            if file is None and name != ADAPTED_CONFIG:
                raise FileNotFoundError(
                    f"{name} of the adapter {self.source!r} is not there; save the merged model, without "
                    "adapter_only=True"
                )
            if file is not None and Path(file).resolve() != (folder / name).resolve():
                shutil.copy(file, folder / name)


def _found(source: str, name: str, where: dict[str, Any]) -> str | None:
    file: str | None = cached_file(source, name, _raise_exceptions_for_missing_entries=False, **where)
    return file


def _trained_tokens(adapter: PeftConfig) -> list[int]:
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
