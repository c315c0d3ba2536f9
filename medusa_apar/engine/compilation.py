"""Steps compiled by `torch.compile`, on a GPU also captured as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from medusa_apar.drafting.drafter import Beam, Drafter, DraftShape
from medusa_apar.kv_cache.slot_cache import SlotCache
from medusa_apar.runner.backbone import Backbone
from medusa_apar.runner.cuda_graphs import GraphedPass
from medusa_apar.runner.forward_pass import CompiledPass, ForwardPass, PassInputs, Run
from medusa_apar.runner.packed_linears import fit_in_memory_twice


class CompiledStep:
    """While active, a step's forward pass and its drafting run compiled.

    They are compiled at the first use, and again after a weight was changed or moved, or the attention was switched. On
    the CPU weights are packed for oneDNN, and products of the same input joined (inductor's `freezing`), where there is
    memory for copies.

    Args:
        backbone: the model.
        drafter: of its heads; None where there are none.
        backend, options: of `torch.compile`.
    """

    def __init__(
        self,
        backbone: Backbone,
        drafter: Drafter | None,
        backend: str | Callable[..., Any],
        options: dict[str, Any],
    ) -> None:
        self._backbone = backbone
        self._drafter = drafter
        self._backend = backend
        self._options = options
        self._compiled_state: object = None
        self._pass: ForwardPass
        self._propose: Callable[..., Any]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Replace the ways to run a step and put them back at the end."""
        state = self._weights(), self._backbone.model.config._attn_implementation
        if state != self._compiled_state:
            self._compile()
            self._compiled_state = state
        plain = self._backbone.step
        self._backbone.step = self._pass
        if self._drafter is not None:
            self._drafter.propose = self._propose  # type: ignore[method-assign]
        try:
            yield
        finally:
            self._backbone.step = plain
            if self._drafter is not None:
                del self._drafter.propose

    def _compile(self) -> None:
        run = WarmedUpRun(self._compiled(self._backbone.run))
        self._pass = GraphedPass(run) if self._backbone.model.device.type == "cuda" else CompiledPass(run)
        if self._drafter is not None:
            self._propose = WarmedUpDrafter(self._compiled(self._drafter.propose), self._drafter.beams)

    def _compiled(self, method: Any) -> Callable[..., Any]:
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
        if self._backend != "inductor" or not self._on_cpu or not fit_in_memory_twice(self._modules()):
            return nullcontext()
        import torch._inductor.config as inductor

        packing: AbstractContextManager[None] = inductor.patch({"freezing": True, "cpp.enable_concat_linear": True})
        return packing

    @property
    def _on_cpu(self) -> bool:
        return self._backbone.model.device.type == "cpu"

    def _modules(self) -> list[nn.Module]:
        return [self._backbone.model, *([] if self._drafter is None else [self._drafter.heads])]

    def _weights(self) -> list[tuple[int, int]]:
        """Where every weight lies, and how often it was changed."""
        return [
            (parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version)
            for module in self._modules()
            for parameter in module.parameters()
        ]


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


class WarmedUpDrafter:
    """Compiled drafting, of which nothing is compiled in the middle of an answer.

    Each beam that a budget may ask for is a graph of its own; the first call compiles them all.

    Args:
        propose: the compiled `Drafter.propose`.
        beams: of the drafter.
    """

    def __init__(self, propose: Callable[..., Any], beams: tuple[Beam, ...]) -> None:
        self._propose = propose
        self._beams = beams
        self._warmed_up = False

    def __call__(self, hidden_states: Tensor, pending: Tensor, shape: DraftShape) -> Any:
        twice = hidden_states[[0, 0]], pending[[0, 0]]  # a single row would be a graph of its own
        if not self._warmed_up:
            self._warmed_up = True
            for beam in self._beams:
                self._propose(*twice, beam)
        if len(pending) > 1:
            return self._propose(hidden_states, pending, shape)
        return tuple(found[:1] for found in self._propose(*twice, shape))
