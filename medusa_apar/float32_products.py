"""Products of bfloat16 matrices through float32, for CPUs without bfloat16 instructions.

There torch multiplies a few bfloat16 rows with a matrix as slowly as one row after the other, and a step of
many nodes would cost as much as that many steps. Through float32 sixteen rows cost a quarter of that. The result
is the same up to rounding: bfloat16 products are summed in float32 in any case, and rounded at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .precision import cpu_has_bfloat16


class Float32Products:
    """While active, `nn.Linear` layers with bfloat16 weights on the CPU multiply in float32.

    The modules keep their bfloat16 weights; the float32 copies, made at the first use, take twice their memory.

    Args:
        modules: whose linear layers to speed up. Nothing happens to those that do not need it.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = list(modules)
        self._copies: dict[nn.Linear, tuple[int, Tensor]] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Replace the layers' `forward` and put it back at the end."""
        linears = [] if cpu_has_bfloat16() else list(self._slow_layers())
        for linear in linears:
            linear.forward = self._product(linear)  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            for linear in linears:
                del linear.forward

    def _slow_layers(self) -> Iterator[nn.Linear]:
        for root in self._modules:
            for module in root.modules():
                if type(module) is nn.Linear:
                    weight = module.weight
                    if weight.dtype == torch.bfloat16 and weight.device.type == "cpu":
                        yield module

    def _product(self, linear: nn.Linear) -> Callable[[Tensor], Tensor]:
        version, weight = self._copies.get(linear, (None, None))
        if version != linear.weight._version or weight is None:
            weight = linear.weight.detach().float()
            self._copies[linear] = linear.weight._version, weight
        bias = None if linear.bias is None else linear.bias.detach().float()

        def forward(rows: Tensor) -> Tensor:
            if rows.numel() == linear.in_features:
                return nn.functional.linear(rows, linear.weight, linear.bias)
            return nn.functional.linear(rows.float(), weight, bias).to(torch.bfloat16)

        return forward
