"""Matrix products of a few rows on the CPU, with weights packed once.

A step multiplies two to thirty rows with every weight matrix. There oneDNN is faster with weights that are packed
beforehand than torch's default products are, in float32 more so than in bfloat16. On CPUs without bfloat16
instructions, bfloat16 rows are multiplied one after the other, so that many nodes cost as much as many steps; packed
float32 copies of the weights cost far less. The result is the same up to rounding: products are summed in float32 in
any case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .dtype import cpu_has_bfloat16

MAX_BYTES = 2**30
"""No copies are made of models that would need more memory for them."""

SAMPLED = 64
"""Values of a weight that are compared."""

_Mark = tuple[int, int, torch.dtype, tuple[float, ...]]

ROWS = 16
"""The number of rows for which oneDNN picks the layout."""


class PackedProducts:
    """While active, `nn.Linear` layers on the CPU multiply with packed weights.

    The modules keep their own weights; the copies are made at the first use, and again after a weight changed. Where
    that went through `.data`, of which torch keeps no count, it is seen by some `SAMPLED` values.

    Args:
        modules: whose linear layers to speed up; nothing happens to those on other devices or of other dtypes.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = list(modules)
        self._copies: dict[nn.Linear, tuple[_Mark, Tensor]] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Replace the layers' `forward` and put it back at the end."""
        linears = self._layers()
        for linear in linears:
            linear.forward = self._product(linear)  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            for linear in linears:
                vars(linear).pop("forward", None)

    def _layers(self) -> list[nn.Linear]:
        if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return []
        linears = [
            module
            for root in self._modules
            for module in root.modules()
            if type(module) is nn.Linear
            and type(module.weight) is nn.Parameter  # no quantised tensor that passes for one
            and "forward" not in vars(module)  # nor weights that accelerate brings in for a call
            and module.weight.device.type == "cpu"
            and module.weight.dtype in (torch.float32, torch.bfloat16)
        ]
        return linears if fit_in_memory_twice(linears) else []

    def _product(self, linear: nn.Linear) -> Callable[[Tensor], Tensor]:
        weight = self._packed(linear)
        dtype, computed = linear.weight.dtype, _computed(linear.weight.dtype)
        bias = None if linear.bias is None else linear.bias.detach().to(computed)

        def forward(rows: Tensor) -> Tensor:
            if rows.numel() == linear.in_features and computed == torch.float32:
                return nn.functional.linear(rows, linear.weight, linear.bias)
            product: Tensor = torch.ops.mkldnn._linear_pointwise(rows.to(computed), weight, bias, "none", [], "")
            return product.to(dtype)

        return forward

    def _packed(self, linear: nn.Linear) -> Tensor:
        mark = _mark(linear.weight)
        known = self._copies.get(linear)
        if known is None or known[0] != mark:
            weight = linear.weight.detach().to(_computed(linear.weight.dtype)).contiguous()
            known = mark, torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
            self._copies[linear] = known
        return known[1]


def _mark(weight: Tensor) -> _Mark:
    """What tells whether a weight is still the same."""
    version = 0 if weight.is_inference() else weight._version
    values = weight.detach().flatten()
    sample = values[:: -(-len(values) // SAMPLED)].tolist()
    return weight.data_ptr(), version, weight.dtype, tuple(sample)


def _computed(dtype: torch.dtype) -> torch.dtype:
    """The format in which this CPU multiplies weights of a format."""
    return dtype if cpu_has_bfloat16() else torch.float32


def fit_in_memory_twice(modules: Iterable[nn.Module]) -> bool:
    """Whether copies of the modules' weights, in float32, are small enough to be made."""
    return sum(4 * weight.numel() for module in modules for weight in module.parameters()) <= MAX_BYTES
