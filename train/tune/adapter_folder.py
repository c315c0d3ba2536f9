"""The result of a tuning: a folder with an adapter and heads, which `MedusaAparModel.from_pretrained` loads."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from transformers.utils import GENERATION_CONFIG_NAME

from medusa_apar.heads.checkpoints.loading import load_heads

from ..backbone.training import ADAPTER
from ..training_record import FILE_NAME as TRAINING_RECORD

HEADS = "heads"
"""Subfolder in which `from_pretrained` looks for heads."""
DTYPE = torch.bfloat16
"""Of the weights in the files."""


def write_adapter_folder(folder: Path, backbone: Path, heads: Path) -> None:
    """Write adapter, tokenizer, generation config and heads, with what their trainings recorded.

    Args:
        folder: where to; what else lies there stays.
        backbone: output folder of `medusa-apar train backbone --lora_rank`.
        heads: output folder of `medusa-apar train heads`.
    """
    made = folder / "work" / "result"
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(backbone / ADAPTER, made)
    weights = load_file(made / SAFETENSORS_WEIGHTS_NAME)
    save_file(
        {name: weight.to(DTYPE) for name, weight in weights.items()},
        made / SAFETENSORS_WEIGHTS_NAME,
        metadata={"format": "pt"},
    )
    for name in (GENERATION_CONFIG_NAME, TRAINING_RECORD):
        shutil.copy(backbone / name, made)
    load_heads(heads, dtype=DTYPE).save_pretrained(made / HEADS)
    shutil.copy(heads / TRAINING_RECORD, made / HEADS)
    for path in made.iterdir():
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    made.rmdir()
