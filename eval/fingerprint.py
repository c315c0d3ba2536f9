"""A short name for a model's weights and for a set of questions, so that two runs can be told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import nn

from .questions import Question

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


def of_questions(questions: Sequence[Question]) -> str:
    """Digest of the questions in their order."""
    return hashlib.sha256(repr(list(questions)).encode()).hexdigest()[:_LENGTH]
