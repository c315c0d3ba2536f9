"""Short names for a model's weights and for lists of things, so that two runs can be told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import nn

_LENGTH = 16
_VALUES = 16


def of_weights(*modules: nn.Module | None) -> str:
    """Digest of the names, the shapes and the first values of all parameters."""
    digest = hashlib.sha256()
    for module in modules:
        if module is None:
            continue
        for name, parameter in module.named_parameters():
            values = parameter.detach().flatten()[:_VALUES].to("cpu", torch.float32)
            digest.update(f"{name} {tuple(parameter.shape)}".encode())
            digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:_LENGTH]


def of_items(items: Sequence[object]) -> str:
    """Digest of things in their order, such as questions, by how they print themselves."""
    return hashlib.sha256(repr(list(items)).encode()).hexdigest()[:_LENGTH]
