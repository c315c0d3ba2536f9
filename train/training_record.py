"""What is needed to make a training again: its command, commit, versions and last figures, beside its weights."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from transformers import TrainerState

FILE_NAME = "training.json"
_SECRET = re.compile(r"(-[\w-]*[_-](?:token|key))")
_SECRET_GIVEN = re.compile(rf"{_SECRET.pattern}=.*", re.DOTALL)
_HIDDEN = "<hidden>"
_PACKAGES = ("medusa-apar", "torch", "transformers", "accelerate", "safetensors", "tokenizers")


def commit() -> str | None:
    """The commit of the source tree that runs, or None outside its git checkout."""
    if _git("ls-files", Path(__file__).name) is None:  # an environment may lie in the checkout of something else
        return None
    return _git("describe", "--always", "--dirty")


def _git(*arguments: str) -> str | None:
    """What git says in this file's folder, if anything."""
    try:
        result = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return result.stdout.strip() or None


def without_secrets(arguments: Sequence[str]) -> list[str]:
    """A command line without the values of options whose names end in `token` or `key`."""
    kept: list[str] = []
    for argument in arguments:
        follows = bool(kept) and _SECRET.fullmatch(kept[-1]) is not None
        kept.append(_HIDDEN if follows else _SECRET_GIVEN.sub(rf"\1={_HIDDEN}", argument))
    return kept


def write_provenance(folder: str | Path, state: TrainerState) -> None:
    """Write `training.json` into a checkpoint folder."""
    figures: dict[str, float] = {}
    for entry in state.log_history:
        figures |= entry
    record = {
        "command": [Path(sys.argv[0]).name, *without_secrets(sys.argv[1:])],
        "commit": commit(),
        "versions": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "steps": state.global_step,
        "epochs": state.epoch,
        "best": {"figure": state.best_metric, "checkpoint": state.best_model_checkpoint},
        "figures": {name: value for name, value in figures.items() if name not in ("step", "epoch")},
    }
    (Path(folder) / FILE_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
