"""The number format that this machine computes fastest in."""

from __future__ import annotations

import torch


def default_dtype() -> torch.dtype:
    """bfloat16 on a GPU or a CPU with bfloat16 instructions, else float32."""
    if torch.cuda.is_available():
        return torch.bfloat16
    capabilities = torch.cpu.get_capabilities()
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16")
    return torch.bfloat16 if native else torch.float32
