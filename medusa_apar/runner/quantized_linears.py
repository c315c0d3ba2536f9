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
from transformers import PreTrainedModel
from transformers.utils import logging

from .dtype import Weights, cpu_has_bfloat16
from .packed_linears import pack_linears

logger = logging.get_logger(__name__)

WEIGHT_STEPS, ROW_STEPS = 63, 127
"""From zero to the end of a range."""
_ZERO_POINT = 128
_SMALLEST = 1e-12
"""Range of a row of zeros."""


class QuantizedLinear(nn.Linear):
    """A linear layer on the CPU that multiplies in 8-bit integers.

    Args:
        linear: whose weight and bias it shares.
        *more: further layers of the same input. The output is that of all of them, concatenated.
    """

    def __init__(self, linear: nn.Linear, *more: nn.Linear) -> None:
        vars(self).update(vars(linear))
        every = (linear, *more)
        self.packed = _packed(torch.cat([each.weight.detach().float() for each in every]))
        biases = [_bias_of(each) for each in every]
        self.added = torch.cat(biases) if any(each.bias is not None for each in every) else None

    def forward(self, rows: Tensor) -> Tensor:
        wide = rows.float()
        ranges = wide.abs().amax(dim=-1, keepdim=True).clamp_(min=_SMALLEST)
        product: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            wide / ranges, 1 / ROW_STEPS, _ZERO_POINT, self.packed
        )
        product *= ranges
        if self.added is not None:
            product += self.added
        return product.to(rows.dtype)


class JoinedLinear(nn.Linear):
    """One of several linear layers that read the same rows, which are computed in one product.

    Args:
        linear: whose weight and bias it shares.
        product: of all of them; the first to be called computes it.
        place: which part of the product is this layer's.
    """

    def __init__(self, linear: nn.Linear, product: JoinedProduct, place: int) -> None:
        vars(self).update(vars(linear))
        self.product, self.place = product, place

    def forward(self, rows: Tensor) -> Tensor:
        return self.product.part(rows, self.place)


class JoinedProduct:
    """The product of several layers, kept from the first that asks for its part to the last."""

    def __init__(self, linears: list[nn.Linear]) -> None:
        self._linear = QuantizedLinear(*linears)
        self._sizes = [each.out_features for each in linears]
        self._known: tuple[Tensor, tuple[Tensor, ...]] | None = None

    def part(self, rows: Tensor, place: int) -> Tensor:
        """The part of the layer at a place."""
        known = self._known
        if known is None or known[0] is not rows:
            known = rows, self._linear(rows).split(self._sizes, dim=-1)
        self._known = None if place == len(self._sizes) - 1 else known
        return known[1][place]


JOINED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers of one module that read the same rows, in the order in which they are called."""


def quantize_linears(module: nn.Module) -> None:
    """Quantise the linear layers of a twin, those of the same input in one product."""
    quantized: dict[nn.Module, nn.Module] = {}
    for parent in list(module.modules()):
        for names in JOINED:
            together: list[Any] = [parent._modules.get(name) for name in names]
            if all(isinstance(each, nn.Linear) for each in together):
                product = JoinedProduct(together)
                quantized |= {each: JoinedLinear(each, product, place) for place, each in enumerate(together)}
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if type(child) is nn.Linear:
                if child not in quantized:
                    quantized[child] = QuantizedLinear(child)
                parent._modules[name] = quantized[child]


def prepare_linears(module: nn.Module, weights: Weights) -> None:
    """Pack or quantise the linear layers of a twin, which is to run without a compiler."""
    if weights is Weights.INT8:
        quantize_linears(module)
    else:
        pack_linears(module)


def usable_weights(model: PreTrainedModel, asked: Weights) -> Weights:
    """The weights that a model can be computed with: `LOADED` or `INT8`.

    A CPU without the instructions falls back to `LOADED`, with a warning where `INT8` was asked for. `AUTO` is also
    `LOADED` on a CPU that multiplies in bfloat16, where 8-bit integers were not measured.

    Raises:
        ValueError: for `INT8`, if the model cannot be quantised; names the layer and the remedy.
    """
    if asked is Weights.LOADED:
        return asked
    reason = cannot_be_quantized(model)
    if asked is Weights.AUTO:
        return Weights.INT8 if reason is None and has_kernels() and not cpu_has_bfloat16() else Weights.LOADED
    if reason is not None:
        raise ValueError(f"weights='int8': {reason}; leave weights= out")
    if not has_kernels():
        logger.warning("weights='int8': this CPU lacks AVX2; the weights are computed as they are loaded.")
        return Weights.LOADED
    return asked


def has_kernels() -> bool:
    """Whether FBGEMM runs on this CPU."""
    return torch.backends.quantized.engine in ("x86", "fbgemm")


def cannot_be_quantized(model: PreTrainedModel) -> str | None:
    """What about a model stands in the way; None if nothing does."""
    if model.config._attn_implementation != "sdpa":
        return f"attn_implementation={model.config._attn_implementation!r} is not reproducible; load it with 'sdpa'"
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        weight = module.weight
        if type(module) is not nn.Linear or type(weight) is not nn.Parameter or "forward" in vars(module):
            return f"{name} is a {type(module).__name__} whose weight is a {type(weight).__name__}, or has a hook"
        if weight.device.type != "cpu":
            return f"{name} is on {weight.device}, and quantised products run on the CPU"
        if not weight.dtype.is_floating_point:
            return f"{name} has weights of {weight.dtype}"
    return None


def _packed(weight: Tensor) -> Any:
    ranges = weight.abs().amax(dim=1).clamp_(min=_SMALLEST)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*deprecated")  # torch has no other door to these kernels
        quantized = torch.quantize_per_channel(
            weight, ranges.double() / WEIGHT_STEPS, torch.zeros(len(weight), dtype=torch.int64), 0, torch.qint8
        )
        return torch.ops.quantized.linear_prepack(quantized, None)


def _bias_of(linear: nn.Linear) -> Tensor:
    if linear.bias is None:
        return torch.zeros(linear.out_features)
    return linear.bias.detach().float()
