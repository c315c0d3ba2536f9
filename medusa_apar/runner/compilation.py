"""Steps compiled by `torch.compile`, on a GPU also captured as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from medusa_apar.kv_cache.slot_cache import SlotCache

from .cuda_graphs import GraphedPass
from .forward_pass import CompiledPass, ForwardPass, PassInputs, Run
from .packed_linears import fits_in_memory_twice


class Compiler:
    """Compiles the functions of a step, each when it is called first.

    On the CPU weights are packed for oneDNN, and products of the same input joined (inductor's `freezing`), where there
    is memory for copies. What is compiled holds for the weights as they are then.

    Args:
        modules: whose functions these are.
        backend, options: of `torch.compile`.
    """

    def __init__(
        self, modules: Sequence[nn.Module], backend: str | Callable[..., Any], options: dict[str, Any]
    ) -> None:
        self._on_cpu = next(modules[0].parameters()).device.type == "cpu"
        self._packs = backend == "inductor" and self._on_cpu and fits_in_memory_twice(*modules)
        self._backend = backend
        self._options = options

    def forward_pass(self, run: Run) -> ForwardPass:
        """The compiled forward pass of a model; on a GPU replayed from CUDA graphs."""
        warmed_up = WarmedUpRun(self.compiled(run))
        return CompiledPass(warmed_up) if self._on_cpu else GraphedPass(warmed_up)

    def compiled(self, method: Any) -> Callable[..., Any]:
        """A compiled method that shares no graph with those of other models.

        Guards on modules are left out: to check hundreds of them at every step costs a small model dearly. Compiled
        graphs belong to a code object, so every model needs one of its own.
        """
        function = method.__func__
        own = FunctionType(function.__code__.replace(), function.__globals__, argdefs=function.__defaults__)
        options: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}
        if self._backend == "inductor" and self._on_cpu:
            options["cpp_wrapper"] = True  # hundreds of small kernels are called from C++ then
        compiled = torch.compile(
            own, fullgraph=True, dynamic=True, backend=self._backend, options=options | self._options
        )

        packing = self._packing()

        def call(*arguments: Any) -> Any:
            with packing:
                return compiled(method.__self__, *arguments)

        return call

    def _packing(self) -> AbstractContextManager[None]:
        """To be open while the function is called, and so while it is compiled."""
        if not self._packs:
            return nullcontext()
        import torch._inductor.config as inductor

        packing: AbstractContextManager[None] = inductor.patch({"freezing": True, "cpp.enable_concat_linear": True})
        return packing


class WarmedUpRun:
    """A compiled model whose graph is traced with sizes that are like no other.

    The compiler takes sizes that are equal when it traces, such as nodes and key-value heads, for one size.

    Args:
        run: the compiled model.
    """

    NODES, EXTENT, STRIDE = 13, 192, 448
    POOLS, ATTENDED, MOST = 7, 3, 5

    def __init__(self, run: Run) -> None:
        self._run = run
        self._warmed_up: set[tuple[bool, bool]] = set()

    def __call__(self, inputs: PassInputs, cache: SlotCache) -> tuple[Tensor, Tensor]:
        case = cache.pools > 1, inputs.attended_pools is not None
        if case not in self._warmed_up:
            self._warmed_up.add(case)
            self._run(self._inputs(inputs), self._cache(cache))
        return self._run(inputs, cache)

    def _inputs(self, like: PassInputs) -> PassInputs:
        def mask(one: Tensor) -> Tensor:
            return one.new_zeros(1, 1, self.NODES, self.EXTENT)

        nodes = like.slots.new_zeros(self.NODES)
        attended = self.POOLS if like.attended_pools is None else self.ATTENDED
        return PassInputs(
            nodes[None],
            nodes[None],
            mask(like.masks) if isinstance(like.masks, Tensor) else {k: mask(one) for k, one in like.masks.items()},
            nodes,
            None if like.pool_nodes is None else nodes.new_zeros(attended, self.MOST),
            None if like.node_places is None else nodes.clone(),
            None if like.attended_pools is None else nodes.new_zeros(attended),
        )

    def _cache(self, like: SlotCache) -> SlotCache:
        pools = self.POOLS if like.pools > 1 else 1
        return like.resized(pools, self.STRIDE - 1)
