"""Steps compiled by `torch.compile`, on a GPU also captured as CUDA graphs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from medusa_apar import fingerprint, heads
from medusa_apar.kv_cache.slot_cache import SlotCache
from medusa_apar.linears.dtype import Weights

from .compiled_function import CompiledFunction, own_code
from .cuda_graphs import GraphedPass
from .forward_pass import CompiledPass, ForwardPass, Run
from .pass_inputs import PassSizes, PoolInputs
from .visible_attention import is_available

_ROOMS = Path(__file__).parents[1]
TRACED = (*(_ROOMS / room for room in ("drafters", "kv_cache", "linears", "runner")), Path(heads.__file__).parent)
"""Folders of the code that is compiled."""


class Compiler:
    """Compiles the functions of a step, each when it is called first.

    Args:
        modules: whose functions these are.
        weights: in which their linear layers are computed.
        backend, options: of `torch.compile`. What inductor makes for the CPU is kept on disk.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        weights: Weights = Weights.LOADED,
        backend: str | Callable[..., Any] = "inductor",
        options: dict[str, Any] | None = None,
    ) -> None:
        self._modules = modules
        self._weights = weights
        self._on_cpu = next(modules[0].parameters()).device.type == "cpu"
        self._backend = backend
        self._options = options or {}

    def forward_pass(self, run: Run, blank: Callable[[], SlotCache]) -> ForwardPass:
        """The compiled forward pass of a model; on a GPU replayed from CUDA graphs.

        Args:
            run: the model.
            blank: a small cache of it whose tensors are there already.
        """
        warmed_up = WarmedUpRun(self.compiled(run))
        return CompiledPass(warmed_up, blank) if self._on_cpu else GraphedPass(warmed_up, prefill=run)

    def compiled(self, method: Any) -> Callable[..., Any]:
        """A compiled method that shares no graph with those of other models.

        Guards on modules are left out: checking hundreds of them at every step is slow for a small model.
        """
        if self._backend == "inductor" and self._on_cpu:
            options: dict[str, Any] = {"cpp_wrapper": True}  # hundreds of small kernels are called from C++ then
            return CompiledFunction(method, self._key(), options | self._options)
        options = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}
        compiled = torch.compile(
            own_code(method.__func__),
            fullgraph=True,
            dynamic=True,
            backend=self._backend,
            options=options | self._options,
        )
        return lambda *arguments: compiled(method.__self__, *arguments)

    def _key(self) -> str | None:
        """Names all that a graph depends on beside what it is given; None where hooks are traced into it."""
        first: Any = self._modules[0]
        exact = self._weights is Weights.INT8
        subject: list[object] = [
            self._weights,
            self._options,
            torch.get_num_threads(),
            torch.cpu.get_capabilities(),
            is_available(first.config, torch.float32 if exact else first.dtype, exact=exact),
        ]
        subject += [version(name) for name in ("torch", "transformers")]
        subject += [fingerprint.of_files(folder, "*.py") for folder in TRACED]
        for root in self._modules:
            config: Any = root.config
            subject += [config.to_dict(), getattr(config, "_attn_implementation", None)]
            for name, module in root.named_modules():
                if "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks:
                    return None
                subject.append((name, f"{type(module).__module__}.{type(module).__qualname__}"))
            subject += [(name, each.shape, each.dtype) for name, each in root.named_parameters()]
        return sha256(json.dumps(subject, sort_keys=True, default=str).encode()).hexdigest()[:32]


class Inputs(Protocol):
    """What a compiled run reads."""

    @property
    def pools(self) -> PoolInputs:
        """Which nodes lie in which pool."""
        ...

    def zeros(self, sizes: PassSizes) -> Self:
        """Inputs of the same kind and of other sizes."""
        ...


class WarmedUpRun:
    """A compiled run over the slots of a cache, whose graph is traced with sizes that are like no other.

    The compiler takes sizes that are equal when it traces, such as nodes and key-value heads, for one size. A batch
    needs a second graph once many of its pools are idle; both are compiled at its first pass.

    Args:
        run: the compiled run.
    """

    SIZES = PassSizes(nodes=13, extent=192, attended=None, pools=7, most=5, kept=11)
    ATTENDED, STRIDE = 3, 448

    def __init__(self, run: Callable[[Any, SlotCache], tuple[Tensor, Tensor]]) -> None:
        self._run = run
        self._warmed_up: set[bool] = set()

    def __call__(self, inputs: Inputs, cache: SlotCache) -> tuple[Tensor, Tensor]:
        several = cache.pools > 1
        if several not in self._warmed_up:
            self._warmed_up.add(several)
            blank = cache.resized(self.SIZES.pools if several else 1, self.STRIDE - 1)
            for attended in (None, self.ATTENDED) if several else (None,):
                self._run(inputs.zeros(replace(self.SIZES, attended=attended)), blank)
        return self._run(inputs, cache)
