"""The number format that this machine computes fastest in."""

from __future__ import annotations

import torch


def cpu_has_bfloat16() -> bool:
    """Whether the CPU has instructions for products of bfloat16 matrices."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))


def default_dtype() -> torch.dtype:
    """bfloat16 on a GPU or a CPU with bfloat16 instructions, else float32."""
    return torch.bfloat16 if torch.cuda.is_available() or cpu_has_bfloat16() else torch.float32
