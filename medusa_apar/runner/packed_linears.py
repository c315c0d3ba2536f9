"""Matrix products of a few rows on the CPU, with weights packed once.

A step multiplies two to thirty rows with every weight matrix. There oneDNN is faster with weights that are packed
beforehand than torch's default products are, in float32 more so than in bfloat16. On CPUs without bfloat16
instructions, bfloat16 rows are multiplied one after the other, so that many nodes cost as much as many steps; packed
float32 copies of the weights cost far less. The result is the same up to rounding: products are summed in float32 in
any case.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .dtype import cpu_has_bfloat16
from .twin import memory_in_float32, replace_linears

MAX_BYTES = 2**30
"""No copies are made of models that would need more memory for them."""

ROWS = 16
"""The number of rows for which oneDNN picks the layout."""


class PackedLinear(nn.Linear):
    """A linear layer on the CPU that multiplies with a packed copy of its weight.

    Args:
        linear: whose weight and bias it shares.
    """

    def __init__(self, linear: nn.Linear) -> None:
        vars(self).update(vars(linear))
        self.computed = _computed(linear.weight.dtype)
        weight = linear.weight.detach().to(self.computed).contiguous()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        self.added = None if linear.bias is None else linear.bias.detach().to(self.computed)

    def forward(self, rows: Tensor) -> Tensor:
        if rows.numel() == self.in_features and self.computed == torch.float32:
            return nn.functional.linear(rows, self.weight, self.bias)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows.to(self.computed), self.packed, self.added, "none", [], ""
        )
        return product.to(self.weight.dtype)


def pack_linears(module: nn.Module) -> None:
    """Pack the linear layers of a twin, where that is faster and there is memory for copies."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    linears = plain_linears(module)
    if fits_in_memory_twice(*linears):
        replace_linears(module, [(linear, PackedLinear(linear)) for linear in linears])


def plain_linears(module: nn.Module) -> list[nn.Linear]:
    """Linear layers on the CPU with weights of their own, in a dtype that is multiplied there."""
    return [
        each
        for each in module.modules()
        if type(each) is nn.Linear
        and type(each.weight) is nn.Parameter  # no quantised tensor that passes for one
        and "forward" not in vars(each)  # nor weights that accelerate brings in for a call
        and each.weight.device.type == "cpu"
        and each.weight.dtype in (torch.float32, torch.bfloat16)
    ]


def fits_in_memory_twice(*modules: nn.Module) -> bool:
    """Whether copies of the modules' weights, in float32, are small enough to be made."""
    return memory_in_float32(modules) <= MAX_BYTES


def _computed(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which this CPU multiplies weights of a dtype."""
    return dtype if cpu_has_bfloat16() else torch.float32
