"""Where a checkpoint of heads lies, and which format it has."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, is_offline_mode, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RemoteEntryNotFoundError
from safetensors import SafetensorError

from ..kinds import KINDS
from .checkpoint_files import SAFETENSORS, SAFETENSORS_INDEX, first_line, read_json

HEADS_SUBFOLDERS = ("heads", "medusa")
"""Where a model's folder keeps its heads: ours, and that of THUDM's published APAR checkpoints."""
CONFIG = "config.json"
EAGLE3_BIN = "pytorch_model.bin"
MEDUSA_LLM_PT = "medusa_lm_head.pt"
MEDUSA_LLM_SAFETENSORS = "medusa_lm_head.safetensors"
VLLM_MODEL_TYPE = "medusa"
HEADS_PLACES = (*(f"{name}/{CONFIG}" for name in HEADS_SUBFOLDERS), MEDUSA_LLM_SAFETENSORS, MEDUSA_LLM_PT)
"""Files by which a model's own heads are found: in a subfolder, or in medusa-llm's layout beside the weights."""


class CheckpointFormat(StrEnum):
    """Layouts that `load_heads` tells apart by `config.json`, and by the names of medusa-llm's weight files.

    Attributes:
        MEDUSA_APAR: what `save_pretrained` writes.
        MEDUSA_LLM: what medusa-llm's training writes: `medusa_lm_head.pt`, or `.safetensors` since its version 1.0.
        VLLM: what vLLM reads for `method="medusa"`.
        EAGLE3: SafeAILab's layout of EAGLE-3 heads.
        SPECULATORS: that of the speculators package.
    """

    MEDUSA_APAR = "medusa-apar"
    MEDUSA_LLM = "medusa-llm"
    VLLM = "vllm"
    EAGLE3 = "eagle3"
    SPECULATORS = "speculators"


WEIGHT_FILES = {
    CheckpointFormat.MEDUSA_APAR: ["model*.safetensors", SAFETENSORS_INDEX],
    CheckpointFormat.MEDUSA_LLM: [MEDUSA_LLM_PT, MEDUSA_LLM_SAFETENSORS],
    CheckpointFormat.VLLM: [SAFETENSORS],
    CheckpointFormat.EAGLE3: ["model*.safetensors", SAFETENSORS_INDEX, EAGLE3_BIN],
    CheckpointFormat.SPECULATORS: ["model*.safetensors", SAFETENSORS_INDEX],
}


def detect_format(source: str | Path, **hub: Any) -> CheckpointFormat:
    """Tell which format a checkpoint has.

    Args:
        source: a folder, or an id on the Hugging Face hub.
        **hub: for `snapshot_download`, such as `token`.

    Raises:
        FileNotFoundError: there is no such folder or hub id, or it has neither `config.json` nor medusa-llm's weights.
        ValueError: `config.json` is broken or belongs to something else.
    """
    folder = locate(source, [CONFIG], **hub)
    path = folder / CONFIG
    values = read_json(path) if path.is_file() else {}
    if values.get("model_type") in KINDS:
        return CheckpointFormat.MEDUSA_APAR
    if values.get("model_type") == VLLM_MODEL_TYPE:
        return CheckpointFormat.VLLM
    if "speculators_model_type" in values:
        return CheckpointFormat.SPECULATORS
    if _is_eagle3(values):
        return CheckpointFormat.EAGLE3
    if "medusa_num_heads" in values or _has_medusa_llm_weights(source, **hub):
        return CheckpointFormat.MEDUSA_LLM
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; pass a folder that holds a checkpoint of heads{_hint(folder)}")
    known = " or ".join(map(repr, (*KINDS, VLLM_MODEL_TYPE)))
    raise ValueError(
        f"{path} is no config of draft heads: it has neither model_type={known}, nor medusa_num_heads, nor "
        "speculators_model_type, nor an architecture of EAGLE-3; pass a folder that holds a checkpoint of heads"
        f"{_hint(folder)}"
    )


def _is_eagle3(values: dict[str, Any]) -> bool:
    """Whether a `config.json` is that of EAGLE-3 heads, which otherwise passes for a backbone's."""
    names = values.get("architectures") or []
    return isinstance(names, list) and any("eagle3" in str(name).lower() for name in names)


@contextmanager
def writing(folder: Path, checkpoint_format: CheckpointFormat) -> Iterator[Path]:
    """Give a folder for the files of a checkpoint, which take their places once all are written.

    Raises:
        ValueError: the folder holds the `config.json` of something else.
        OSError: the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; name a folder to write to")
    config = folder / CONFIG
    if config.exists() and (detect_format(folder) is not checkpoint_format or _is_of_a_backbone(read_json(config))):
        raise ValueError(f"{config} belongs to another checkpoint, which would be lost; name an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
        try:
            yield Path(partial)
        except (RuntimeError, SafetensorError) as error:  # torch's and safetensors' for a full disk
            raise OSError(f"cannot write {folder}: {first_line(error)}; free some space") from error
        for file in sorted(Path(partial).iterdir(), key=lambda file: file.name == CONFIG):
            os.replace(file, folder / file.name)


def find_heads(source: str, *, revision: str | None = None, subfolder: str = "", **hub: Any) -> Path | None:
    """The local folder of the heads that come with a model, if any do, fetched from the hub if the model is there.

    Args:
        source: a folder, or an id on the Hugging Face hub.
        revision: of the repository.
        subfolder: of folder or repository, where the model lies.
        **hub: for `hf_hub_download`, such as `token`.

    Raises:
        OSError: the hub does not say whether there are any.
    """
    places = [Path(subfolder, place) for place in HEADS_PLACES]
    if Path(source).is_dir():
        return next((Path(source, place).parent for place in places if Path(source, place).is_file()), None)
    for place in places:
        if not _on_the_hub(source, place.as_posix(), revision, hub):
            continue
        files = {CONFIG}.union(*WEIGHT_FILES.values()) if place.name == CONFIG else {CONFIG, place.name}
        patterns = [(place.parent / file).as_posix() for file in files]
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns, **hub)) / place.parent
    return None


def _on_the_hub(source: str, file: str, revision: str | None, hub: dict[str, Any]) -> bool:
    """Whether a repository has a file, or the cache where the hub is not asked."""
    try:
        hf_hub_download(source, file, revision=revision, **hub)
    except (RemoteEntryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError) as error:
        if isinstance(error, RemoteEntryNotFoundError) or hub.get("local_files_only") or is_offline_mode():
            return False
        raise OSError(
            f"the hub does not say whether {source!r} has heads ({first_line(error)}); try again, or pass heads="
        ) from error
    return True


def _has_medusa_llm_weights(source: str | Path, **hub: Any) -> bool:
    names = WEIGHT_FILES[CheckpointFormat.MEDUSA_LLM]
    folder = locate(source, names, **hub)
    return any((folder / name).is_file() for name in names)


def holds_heads_alone(folder: Path) -> bool:
    """Whether a folder is a checkpoint of heads, and not of a backbone that may have some beside its weights."""
    path = folder / CONFIG
    if not path.is_file():
        return False
    values = read_json(path)
    told = ("model_type", "medusa_num_heads", "speculators_model_type", "architectures")
    return not _is_of_a_backbone(values) and any(values.get(name) for name in told)


def _is_of_a_backbone(values: dict[str, Any]) -> bool:
    """Whether a `config.json` is that of a causal LM, which may name medusa-llm's heads that lie beside its weights."""
    return (
        bool(values.get("model_type"))
        and values["model_type"] not in (*KINDS, VLLM_MODEL_TYPE)
        and not _is_eagle3(values)
        and "speculators_model_type" not in values
    )


def locate(source: str | Path, patterns: list[str], **hub: Any) -> Path:
    """Return the local folder of a checkpoint, fetched from the hub, with arguments for that, if it is an id there."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise NotADirectoryError(f"{source} is a file; pass the folder that holds {CONFIG} and the weights")
    try:
        return Path(snapshot_download(str(source), allow_patterns=patterns, **hub))
    except HFValidationError as error:
        raise FileNotFoundError(f"heads at {source} not found: no such folder; check the path") from error
    except OSError as error:
        raise FileNotFoundError(
            f"heads at {source} not found: no such folder, and the Hugging Face hub did not give them "
            f"({first_line(error)}); check the path, the id and the network"
        ) from error


def _hint(folder: Path) -> str:
    """Name the subfolders of a whole model's folder that could have been meant."""
    found = [str(folder / name) for name in HEADS_SUBFOLDERS if (folder / name / CONFIG).is_file()]
    return f", such as {' or '.join(found)}" if found else ""
