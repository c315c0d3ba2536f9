"""What is needed to make a training again: its command, commit, versions and last figures, beside its weights."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from transformers import TrainerState

FILE_NAME = "training.json"
_PACKAGES = ("medusa-apar", "torch", "transformers", "accelerate", "safetensors", "tokenizers")


def commit() -> str | None:
    """The commit of the source tree that runs, or None outside a git checkout."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return None
    return result.stdout.strip() or None


def write_provenance(folder: str | Path, state: TrainerState) -> None:
    """Write `training.json` into a checkpoint folder."""
    figures: dict[str, float] = {}
    for entry in state.log_history:
        figures |= entry
    record = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": commit(),
        "versions": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "steps": state.global_step,
        "epochs": state.epoch,
        "best": {"figure": state.best_metric, "checkpoint": state.best_model_checkpoint},
        "figures": {name: value for name, value in figures.items() if name not in ("step", "epoch")},
    }
    (Path(folder) / FILE_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
