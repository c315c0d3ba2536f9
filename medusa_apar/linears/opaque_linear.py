"""Linear layers that multiply with a copy of their weights which torch does not look into, packed or quantised.

Layers of the same input are multiplied in one product.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

torch.library.define("medusa_apar::product", "(Tensor rows, Tensor key, int out_features) -> Tensor")

JOINED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers of one module that read the same rows, in the order in which they are called."""


class SharingLinear(nn.Linear):
    """A linear layer with the weight and bias of another one. Packed copies can be neither moved nor converted.

    Args:
        linear: the other one.
    """

    def __init__(self, linear: nn.Linear) -> None:
        vars(self).update(vars(linear))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SharingLinear:
        return self


class OpaqueLinear(SharingLinear, ABC):
    """A linear layer on the CPU whose product is one operator to a compiler, whatever its weights are made of.

    Args:
        linear: whose weight and bias it shares.
        *more: further layers of the same input. The output is that of all of them, concatenated.
    """

    def __init__(self, linear: nn.Linear, *more: nn.Linear) -> None:
        super().__init__(linear)
        every = (linear, *more)
        self.outputs = sum(each.out_features for each in every)
        biases = [_bias_of(each) for each in every]
        self.added = torch.cat(biases) if any(each.bias is not None for each in every) else None
        self.key = torch.tensor(next(_KEYS))  # a tensor, or compiled code would hold for this one layer
        _LINEARS[int(self.key)] = self

    @abstractmethod
    def multiply(self, rows: Tensor) -> Tensor:
        """The product itself: `[..., outputs]` in the dtype of the rows."""

    def product(self, rows: Tensor) -> Tensor:
        """`multiply`, also where it is compiled."""
        if torch.compiler.is_compiling():
            product: Tensor = torch.ops.medusa_apar.product.default(rows, self.key, self.outputs)
            return product
        return self.multiply(rows)


_KEYS = count()
_LINEARS: WeakValueDictionary[int, OpaqueLinear] = WeakValueDictionary()


@torch.library.impl("medusa_apar::product", "CPU")
def _product(rows: Tensor, key: Tensor, out_features: int) -> Tensor:
    return _LINEARS[int(key)].multiply(rows)


@torch.library.register_fake("medusa_apar::product")  # type: ignore[untyped-decorator]
def _shape_of_product(rows: Tensor, key: Tensor, out_features: int) -> Tensor:
    return rows.new_empty((*rows.shape[:-1], out_features))


class JoinedLinear(SharingLinear):
    """One of several linear layers that read the same rows, which are computed in one product.

    Args:
        linear: whose weight and bias it shares.
        product: of all of them; the first to be called computes it.
        place: which part of the product is this layer's.
    """

    def __init__(self, linear: nn.Linear, product: JoinedProduct, place: int) -> None:
        super().__init__(linear)
        self.product, self.place = product, place

    def forward(self, rows: Tensor) -> Tensor:
        return self.product.part(rows, self.place)


class JoinedProduct:
    """The product of several layers, kept from the first that asks for its part to the last.

    Args:
        linear: that of all of them.
        sizes: outputs of each.
    """

    def __init__(self, linear: nn.Module, sizes: Sequence[int]) -> None:
        self._linear = linear
        self._sizes = list(sizes)
        self._known: tuple[Tensor, tuple[Tensor, ...]] | None = None

    def part(self, rows: Tensor, place: int) -> Tensor:
        """The part of the layer at a place."""
        known = self._known
        if known is None or known[0] is not rows:
            known = rows, self._linear(rows).split(self._sizes, dim=-1)
        self._known = None if place == len(self._sizes) - 1 else known
        return known[1][place]


def by_input(module: nn.Module, linears: Iterable[nn.Linear]) -> list[list[nn.Linear]]:
    """Linear layers of a module in groups of the same input, those of `JOINED` together and each other one alone."""
    left = dict.fromkeys(linears)
    groups: list[list[nn.Linear]] = []
    for parent in module.modules():
        for names in JOINED:
            together: list[Any] = [parent._modules.get(name) for name in names]
            if all(each in left for each in together):
                groups.append(together)
                for each in together:
                    del left[each]
    return [*groups, *([each] for each in left)]


def replace_linears(module: nn.Module, linears: Iterable[nn.Linear], new: Callable[..., OpaqueLinear]) -> None:
    """Replace linear layers of a twin, those of the same input by one product.

    Args:
        module: the root of the twin.
        linears: the layers.
        new: makes one of a layer, or of several.
    """
    replaced: dict[nn.Module | None, nn.Module] = {}
    for group in by_input(module, linears):
        if len(group) == 1:
            replaced[group[0]] = new(*group)
        else:
            product = JoinedProduct(new(*group), [each.out_features for each in group])
            replaced |= {each: JoinedLinear(each, product, place) for place, each in enumerate(group)}
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            parent._modules[name] = replaced.get(child, child)


def _bias_of(linear: nn.Linear) -> Tensor:
    if linear.bias is None:
        return linear.weight.new_zeros(linear.out_features)
    return linear.bias.detach()
