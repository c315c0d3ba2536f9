"""Matrix products on the CPU in 8-bit integers.

Weights are quantised once, each output channel to its own range; rows are quantised as they come, each to its own. The
products are summed exactly, so that a row's result does not depend on the rows beside it, nor on how many there are.
Source: LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339), section 2.1, for ranges by row and channel.

FBGEMM has the kernel. On CPUs without VNNI it adds products of two pairs in 16 bits, which hold them if weights have 7
bits beside rows of 8.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from .opaque_linear import OpaqueLinear, replace_linears

WEIGHT_STEPS, ROW_STEPS = 63, 127
"""From zero to the end of a range."""
_ZERO_POINT = 128
_SMALLEST = 1e-12
"""Range of a row of zeros."""


class QuantizedLinear(OpaqueLinear):
    """A linear layer on the CPU that multiplies in 8-bit integers.

    Args:
        linear: whose weight and bias it shares.
        *more: further layers of the same input. The output is that of all of them, concatenated.
    """

    def __init__(self, linear: nn.Linear, *more: nn.Linear) -> None:
        super().__init__(linear, *more)
        self.packed = _packed(torch.cat([each.weight.detach().float() for each in (linear, *more)]))
        self.added = None if self.added is None else self.added.float()

    def multiply(self, rows: Tensor) -> Tensor:
        product: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            rows, 1 / ROW_STEPS, _ZERO_POINT, self.packed
        )
        return product

    def forward(self, rows: Tensor) -> Tensor:
        wide = rows.float()
        ranges = wide.abs().amax(dim=-1, keepdim=True).clamp(min=_SMALLEST)
        product = self.product(wide / ranges) * ranges
        if self.added is not None:
            product = product + self.added
        return product.to(rows.dtype)


def quantize_linears(module: nn.Module) -> None:
    """Quantise the linear layers of a twin."""
    replace_linears(module, [each for each in module.modules() if type(each) is nn.Linear], QuantizedLinear)


def _packed(weight: Tensor) -> Any:
    ranges = weight.abs().amax(dim=1).clamp_(min=_SMALLEST)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*deprecated")  # torch has no other door to these kernels
        quantized = torch.quantize_per_channel(
            weight, ranges.double() / WEIGHT_STEPS, torch.zeros(len(weight), dtype=torch.int64), 0, torch.qint8
        )
        return torch.ops.quantized.linear_prepack(quantized, None)
