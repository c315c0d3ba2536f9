"""Matrix products of a few rows on the CPU, with weights packed once.

A step multiplies one to thirty rows with every weight matrix. There oneDNN is faster with weights that are packed
beforehand than torch's default products are, in float32 more so than in bfloat16. On CPUs without bfloat16
instructions, bfloat16 rows are multiplied one after the other, so that many nodes cost as much as many steps; packed
float32 copies of the weights cost far less. A single row in float32 is faster with the weights as they are where the
CPU has AVX-512. The result is the same up to rounding: products are summed in float32 in any case.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .dtype import cpu_has_bfloat16, in_dtype
from .opaque_linear import OpaqueLinear, replace_linears

MAX_BYTES = 2**30
"""No copies are made of models that would need more memory for them."""

ROWS = 16
"""The number of rows for which oneDNN picks the layout."""


class PackedLinear(OpaqueLinear):
    """A linear layer on the CPU that multiplies with a packed copy of its weight.

    Args:
        linear: whose weight and bias it shares.
        *more: further layers of the same input. The output is that of all of them, concatenated.
    """

    def __init__(self, linear: nn.Linear, *more: nn.Linear) -> None:
        super().__init__(linear, *more)
        self.loaded, self.computed = linear.weight.dtype, _computed(linear.weight.dtype)
        weight = torch.cat([each.weight.detach().to(self.computed) for each in (linear, *more)])
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        self.added = None if self.added is None else self.added.to(self.computed)
        self.parts = (linear, *more) if self.loaded == self.computed and not packs_single_rows() else ()

    def multiply(self, rows: Tensor) -> Tensor:
        if self.parts and rows.numel() == rows.shape[-1]:
            return torch.cat([nn.functional.linear(rows, each.weight, each.bias) for each in self.parts], dim=-1)
        product: Tensor = torch.ops.mkldnn._linear_pointwise.default(rows, self.packed, self.added, "none", [], "")
        return product

    def forward(self, rows: Tensor) -> Tensor:
        return in_dtype(self.product(in_dtype(rows, self.computed)), self.loaded)


def packs_single_rows() -> bool:
    """Whether a single row is faster with a packed weight, too. `benchmarks.linear_products` has the times."""
    return cpu_has_bfloat16() or "AVX512" not in torch.backends.cpu.get_cpu_capability()


def pack_linears(module: nn.Module) -> None:
    """Pack the linear layers of a twin, where that is faster and there is memory for copies."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    linears: list[Any] = [each for each in module.modules() if _is_plain(each)]
    if fits_in_memory_twice(*linears):
        replace_linears(module, linears, PackedLinear)


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is a linear layer on the CPU with a weight of its own, in a dtype that is packed."""
    return (
        type(module) is nn.Linear
        and type(module.weight) is nn.Parameter  # no quantised tensor that passes for one
        and "forward" not in vars(module)  # nor weights that accelerate brings in for a call
        and module.weight.device.type == "cpu"
        and module.weight.dtype in (torch.float32, torch.bfloat16)
    )


def fits_in_memory_twice(*modules: nn.Module) -> bool:
    """Whether copies of the modules' weights, in float32, are small enough to be made."""
    return sum(4 * weight.numel() for module in modules for weight in module.parameters()) <= MAX_BYTES


def _computed(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which this CPU multiplies weights of a dtype."""
    return dtype if cpu_has_bfloat16() else torch.float32
