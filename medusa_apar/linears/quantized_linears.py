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

from .opaque_linear import JoinedLinear, OpaqueLinear, replace_linears

WEIGHT_STEPS, ROW_STEPS = 63, 127
"""From zero to the end of a range."""
_ZERO_POINT = 128
_SMALLEST = 1e-12
"""Range of a row of zeros."""
_PRODUCT = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
"""The overload itself: to find it takes longer than a small product."""


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
        product: Tensor = _PRODUCT(rows, 1 / ROW_STEPS, _ZERO_POINT, self.packed)
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


def quantize_in_place(module: nn.Module) -> None:
    """Quantise the linear layers of a model itself, and free their weights.

    In place of its weight, which then has a shape and no values, a layer has the parameter `weight_scale`, `[out]`
    float32, of its output channels.
    """
    quantize_linears(module)
    for each in module.modules():
        if isinstance(each, nn.Linear) and is_quantized(each):
            scale = nn.Parameter(_ranges(each.weight.detach().float()) / WEIGHT_STEPS, requires_grad=False)
            weight = nn.Parameter(each.weight.detach().to("meta"), requires_grad=False)
            each._parameters |= {"weight_scale": scale, "weight": weight}  # others hold the same dictionary
    for parameter in module.parameters():
        if parameter.device.type != "meta":  # else what remains of a file would keep all of it in memory
            parameter.data = parameter.data.clone()


def is_quantized(module: nn.Module) -> bool:
    """Whether a layer of a model was quantised in place."""
    return isinstance(module, QuantizedLinear | JoinedLinear)


def _ranges(weight: Tensor) -> Tensor:
    return weight.abs().amax(dim=1).clamp_(min=_SMALLEST)


def _packed(weight: Tensor) -> Any:
    ranges = _ranges(weight)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*deprecated")  # torch has no other door to these kernels
        quantized = torch.quantize_per_channel(
            weight, ranges.double() / WEIGHT_STEPS, torch.zeros(len(weight), dtype=torch.int64), 0, torch.qint8
        )
        return torch.ops.quantized.linear_prepack(quantized, None)
