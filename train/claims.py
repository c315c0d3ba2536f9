"""A folder belongs to one training: one of other weights, data or settings does not go on from its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel, TrainingArguments

from medusa_apar.fingerprint import of_files, of_weights
from medusa_apar.heads.checkpoints.checkpoint_files import read_json

from .command_line import InputError

FILE_NAME = "_settings.json"
"""transformers pushes no file to a hub whose name begins like this."""

FREE = ("attn_implementation", "eval_data")
"""Arguments that may change while a training goes on."""

KEPT = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon",
    "optim", "muon", "fork_weight", "seed",
)  # fmt: skip
"""Those of transformers that a checkpoint brings back, whatever the command says."""


def claim(args: TrainingArguments, backbone: PreTrainedModel, files: Sequence[str], *arguments: Any) -> None:
    """Let a training have its `output_dir`, or have it again; all processes call this.

    Args:
        args: of the training; the folder is made if it is missing.
        backbone: that is trained, or that the heads are trained for, as it was loaded.
        files: whose contents it reads.
        arguments: dataclasses of all that the weights depend on besides.

    Raises:
        InputError: the folder is that of another training.
    """
    assert args.output_dir is not None
    folder = Path(args.output_dir)
    weights = [of_weights(backbone) if args.process_index == 0 else ""]  # FSDP lets process 0 alone load them
    broadcast_object_list(weights)
    settings: dict[str, Any] = {"weights": weights[0]}
    for each in arguments:
        settings |= {name: value for name, value in asdict(each).items() if name not in FREE}
    settings["contents"] = [of_files(Path(file)) for file in files]
    settings |= {name: getattr(args, name) for name in KEPT if hasattr(args, name)}
    with args.main_process_first(local=args.save_on_each_node):
        settle(folder / FILE_NAME, settings, f"--output_dir {folder}: holds a training with")


def settle(path: Path, settings: Mapping[str, Any], holds: str) -> None:
    """Let a folder have these settings, or have them again.

    Args:
        path: of the file that keeps them; its folder is made if it is missing.
        settings: what all that lies there depends on; JSON values, tuples among them.
        holds: begins the error: what the folder holds with other settings.

    Raises:
        InputError: the folder has others.
    """
    settings = json.loads(json.dumps(settings))
    if path.exists():
        known = read_json(path)
        for name in sorted(known.keys() | settings.keys()):
            if known.get(name) != settings.get(name):
                raise InputError(
                    f"{holds} {name}={known.get(name)!r}, not {settings.get(name)!r}; "
                    "remove the folder, or choose another"
                )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
