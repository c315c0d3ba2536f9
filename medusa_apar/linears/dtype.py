"""Dtypes of weights by name, and the one that this machine computes fastest in."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

DTYPES = ("auto", "float32", "bfloat16", "float16")
"""What `--dtype` may name."""


class Weights(StrEnum):
    """In which numbers linear layers are computed: as they are loaded, in 8-bit integers, or in the faster of both."""

    LOADED = "loaded"
    INT8 = "int8"
    AUTO = "auto"

    @classmethod
    def _missing_(cls, value: object) -> Any:
        raise ValueError(f"weights={value!r} is unknown; choose one of {', '.join(cls)}")


WEIGHTS = tuple(map(str, Weights))
"""What `--weights` may name."""


def cpu_has_bfloat16() -> bool:
    """Whether the CPU has instructions for products of bfloat16 matrices."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))


def cpu_has_amx() -> bool:
    """Whether the CPU has instructions for products of tiles of bfloat16 matrices."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def default_dtype() -> torch.dtype:
    """bfloat16 on a GPU or a CPU with bfloat16 instructions, else float32."""
    return torch.bfloat16 if torch.cuda.is_available() or cpu_has_bfloat16() else torch.float32


def in_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor.to(dtype)`, which takes a microsecond even where it converts nothing; this does not."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def dtype_named(name: str) -> torch.dtype:
    """The dtype that one of `DTYPES` names; `auto` is this machine's fastest, whatever the checkpoint has."""
    if name == "auto":
        return default_dtype()
    dtype: torch.dtype = getattr(torch, name)
    return dtype
