"""Which linear layers of a twin are packed or quantised, and what stands in the way."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from .dtype import Weights, cpu_has_amx
from .packed_linears import pack_linears
from .quantized_linears import is_quantized, quantize_in_place, quantize_linears

logger = logging.get_logger(__name__)


def prepare_linears(module: nn.Module, weights: Weights) -> None:
    """Pack or quantise the linear layers of a twin."""
    if weights is Weights.INT8:
        quantize_linears(module)
    else:
        pack_linears(module)


def quantize_as_loaded(model: PreTrainedModel) -> None:
    """Quantise a model that nobody else has yet, so that its weights are not held twice, where the CPU can.

    Raises:
        ValueError: as `usable_weights`.
    """
    if usable_weights(model, Weights.INT8) is Weights.INT8:
        quantize_in_place(model)


def usable_weights(model: PreTrainedModel, asked: Weights) -> Weights:
    """The weights that a model can be computed with: `LOADED` or `INT8`.

    A CPU without the instructions falls back to `LOADED`, with a warning where `INT8` was asked for. `AUTO` is also
    `LOADED` for bfloat16 on a CPU with AMX, which is faster there.

    Raises:
        ValueError: for `INT8`, if the model cannot be quantised; names the layer and the remedy.
    """
    if asked is Weights.LOADED:
        return asked
    reason = cannot_be_quantized(model)
    if asked is Weights.AUTO:
        tiled = cpu_has_amx() and model.dtype == torch.bfloat16
        return Weights.INT8 if reason is None and has_kernels() and not tiled else Weights.LOADED
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
        if not isinstance(module, nn.Linear) or is_quantized(module):
            continue
        weight = module.weight
        if type(module) is not nn.Linear or type(weight) is not nn.Parameter or "forward" in vars(module):
            return f"{name} is a {type(module).__name__} whose weight is a {type(weight).__name__}, or has a hook"
        if weight.device.type != "cpu":
            return f"{name} is on {weight.device}, and quantised products run on the CPU"
        if not weight.dtype.is_floating_point:
            return f"{name} has weights of {weight.dtype}"
    return None
