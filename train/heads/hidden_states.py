"""Hidden states of a frozen backbone, computed once for each row and read from disk in later epochs."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from ..evaluation.places import head_inputs

logger = logging.getLogger(__name__)

HIDDEN_STATES = "_hidden"
"""Within an output folder; transformers pushes no file to a hub whose name begins like this."""


class HiddenStates:
    """What enters the `lm_head` of a frozen backbone, row by row.

    Args:
        backbone: is not trained, and attends along paths (`attend_along_paths`).
        folder: keeps the hidden states of each row as safetensors; None keeps nothing. Where it cannot be written, it
            is removed, a warning says so, and every epoch computes them.
        layers: auxiliary layers, whose inputs are wanted, too.
    """

    def __init__(self, backbone: PreTrainedModel, folder: Path | None, layers: Sequence[int] = ()) -> None:
        self.backbone = backbone
        self.folder = folder
        self.layers = layers

    @torch.no_grad()
    def of_batch(self, batch: dict[str, Any]) -> Tensor:
        """Hidden states `[batch, length, size]` of a batch of `TreeCollator`, in the backbone's dtype.

        Where rows are padded they are anything.
        """
        if self.folder is None:
            return head_inputs(self.backbone, batch, self.layers)
        lengths: list[int] = batch["lengths"].tolist()
        paths = [self.folder / f"{_digest(batch, row, length)}.safetensors" for row, length in enumerate(lengths)]
        kept = [_read(path) for path in paths]
        if any(row is None for row in kept):
            hidden = head_inputs(self.backbone, batch, self.layers)
            try:
                for path, row, length in zip(paths, hidden, lengths, strict=True):
                    _write(path, row[:length])
            except (OSError, SafetensorError) as error:
                shutil.rmtree(self.folder, ignore_errors=True)
                logger.warning("%s cannot be written (%s); every epoch computes hidden states", self.folder, error)
                self.folder = None
            return hidden
        rows = [row.to(batch["input_ids"].device) for row in kept if row is not None]
        hidden = rows[0].new_zeros(*batch["input_ids"].shape, rows[0].shape[-1])
        for at, row in enumerate(rows):
            hidden[at, : len(row)] = row
        return hidden


def _digest(batch: dict[str, Any], row: int, length: int) -> str:
    """Of what the hidden states of a row depend on: tokens, positions and paths."""
    digest = hashlib.sha256()
    for part in (
        batch["input_ids"][row, :length],
        batch["position_ids"][row, :length],
        batch["attention_mask"][row, 0, :length, :length],
    ):
        digest.update(part.cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


def _read(path: Path) -> Tensor | None:
    try:
        return load_file(path)["hidden"]
    except (OSError, SafetensorError, KeyError):  # missing, or cut off by an interruption
        return None


def _write(path: Path, hidden: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    save_file({"hidden": hidden.cpu().contiguous()}, temporary)
    temporary.replace(path)
