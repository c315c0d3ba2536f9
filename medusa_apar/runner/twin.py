"""A second tree of modules over the same weights, so that what runs a pass leaves the user's own as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy
from functools import partial
from types import MethodType
from typing import Any, TypeVar

from torch import nn
from transformers import PretrainedConfig

M = TypeVar("M", bound=nn.Module)

SAMPLED = 64
"""Values of a weight that are compared."""


def twin(module: M) -> M:
    """Modules like those of a tree, which share its parameters, buffers and hooks, and have a config of their own.

    Weights that are moved, converted or replaced are so in the twin, too; a module that is replaced is not.

    Args:
        module: the root of the tree.

    Raises:
        ValueError: if a `forward` was replaced by a function that cannot be bound to the twin.
    """
    config = getattr(module, "config", None)
    return _twin(module, config, copy(config), {})


def _twin(module: M, config: PretrainedConfig | None, own: PretrainedConfig | None, known: dict[int, nn.Module]) -> M:
    made: Any = known.get(id(module))
    if made is not None:
        return made  # type: ignore[no-any-return]
    made = known[id(module)] = module.__class__.__new__(module.__class__)
    vars(made).update({name: _rebound(value, module, made) for name, value in vars(module).items()})
    if "forward" in vars(module) and made.forward is module.forward:
        raise ValueError(
            f"forward of the {type(module).__name__} was replaced by {module.forward!r}, which cannot be bound to "
            "another module; register a hook, or assign types.MethodType(function, module)"
        )
    made.training = False
    if config is not None and vars(made).get("config") is config:
        made.config = own
    made._modules = {
        name: None if child is None else _twin(child, config, own, known) for name, child in module._modules.items()
    }
    return made  # type: ignore[no-any-return]


def _rebound(value: Any, module: nn.Module, made: nn.Module) -> Any:
    """What stands in a module's attributes in place of its methods, such as accelerate's, for the module's twin."""
    value = getattr(value, "_torchdynamo_orig_callable", value)
    if isinstance(value, MethodType) and value.__self__ is module:
        return MethodType(value.__func__, made)
    if isinstance(value, partial) and any(each is module for each in value.args):
        bound = partial(value.func, *(made if each is module else each for each in value.args), **value.keywords)
        vars(bound).update(vars(value))
        return bound
    return value


def state_of(modules: Iterable[nn.Module]) -> tuple[object, ...]:
    """What tells whether trees of modules are still the same, with the same weights.

    torch counts the changes of a weight, but not those through `.data`. On the CPU some `SAMPLED` values show these.
    """
    return tuple(_state(modules))


def _state(modules: Iterable[nn.Module]) -> Iterator[object]:
    for root in modules:
        for module in root.modules():
            yield module, vars(module).get("forward")
            for weight in module._parameters.values():
                if type(weight) is not nn.Parameter:  # none, or a quantised tensor
                    yield id(weight)
                    continue
                yield weight.data_ptr(), 0 if weight.is_inference() else weight._version, weight.dtype, weight.device
                if weight.device.type == "cpu":
                    values = weight.detach().flatten()
                    yield tuple(values[:: -(-len(values) // SAMPLED)].tolist())
