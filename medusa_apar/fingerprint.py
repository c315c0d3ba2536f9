"""Short names for a model's weights, for files and for lists of things, so that two runs can be told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

_LENGTH = 16
_VALUES = 16


def of_weights(*modules: nn.Module | None) -> str:
    """Digest of the names, the shapes and the first values, where there are any, of all parameters."""
    digest = hashlib.sha256()
    for module in modules:
        if module is None:
            continue
        for name, parameter in module.named_parameters():
            digest.update(f"{name} {tuple(parameter.shape)}".encode())
            if parameter.device.type != "meta":
                values = parameter.detach().flatten()[:_VALUES].to("cpu", torch.float32)
                digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:_LENGTH]


def of_files(path: Path, pattern: str = "**/*") -> str:
    """Digest of a file, or of the names and contents of those files of a folder that match a pattern."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(each for each in path.glob(pattern) if each.is_file()):
        with file.open("rb") as content:
            digest.update(f"{file.relative_to(path)} {hashlib.file_digest(content, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()[:_LENGTH]


def of_items(items: Sequence[object]) -> str:
    """Digest of things in their order, such as questions, by how they print themselves."""
    return hashlib.sha256(repr(list(items)).encode()).hexdigest()[:_LENGTH]
