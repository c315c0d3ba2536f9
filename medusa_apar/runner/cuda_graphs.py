"""CUDA graphs of the forward pass: a step costs one launch, whatever the number of the model's kernels."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medusa_apar.kv_cache.placement import Placement
from medusa_apar.kv_cache.slot_cache import SlotCache

from .forward_pass import ForwardPass, Run
from .pass_inputs import PassInputs

NODE_BUCKETS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Numbers of nodes that graphs are captured for; larger steps are multiples of the last one."""
LEAST_EXTENT = 256
"""Graphs are captured for this extent, twice it, and so on."""

Capture = Callable[[Callable[[], tuple[Tensor, Tensor]]], tuple[Callable[[], None], tuple[Tensor, Tensor]]]
"""Records a computation: what replays it, and the tensors that a replay writes."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A captured forward pass.

    Attributes:
        inputs: the tensors that a replay reads.
        replay: runs it.
        outputs: the tensors that a replay writes.
    """

    inputs: PassInputs
    replay: Callable[[], None]
    outputs: tuple[Tensor, Tensor]


class GraphedPass(ForwardPass):
    """Runs the forward pass by replaying graphs, one for each bucket of nodes and extent.

    A graph reads and writes tensors at fixed addresses. So inputs are copied to where it expects them, the cache is
    kept from call to call of `generate`, and graphs are captured anew when it had to grow.

    Args:
        run: the model, as it is or compiled.
        capture: records it; by default as a CUDA graph.
        prefill: runs prompts; by default as `run` does.
    """

    def __init__(self, run: Run, capture: Capture | None = None, prefill: Run | None = None) -> None:
        super().__init__(run)
        self._prefill = run if prefill is None else prefill
        self._capture = CudaCapture() if capture is None else capture
        self._cache: SlotCache | None = None
        self._addresses: tuple[int, ...] = ()
        self._graphs: dict[tuple[int, ...], Graph] = {}

    def new_cache(self, layers: int, pools: int, capacity: int, most: int) -> SlotCache:
        """The cache of the last call where it serves, else a new one."""
        kept = self._cache
        if kept is None or kept.pools != pools or not capacity <= kept.capacity <= most:
            kept = self._cache = SlotCache(layers, pools, capacity)
        return kept

    def fit(self, placement: Placement) -> Placement:
        extent = min(extent_bucket(placement.extent), placement.cache.capacity + 1)
        every_pool = replace(placement, attended=None)  # or there were graphs for every number of pools
        return every_pool.padded(node_bucket(len(placement)), extent, node_bucket(placement.most))

    def __call__(self, inputs: PassInputs, cache: SlotCache) -> tuple[Tensor, Tensor]:
        addresses = cache.addresses()
        if addresses != self._addresses:
            self._graphs.clear()
            self._addresses = addresses
        shape = tuple(size for tensor in inputs.tensors() for size in tensor.shape)
        graph = self._graphs.get(shape)
        if graph is None:
            graph = self._graphs[shape] = self._captured(inputs, cache)
        for own, given in zip(graph.inputs.tensors(), inputs.tensors(), strict=True):
            own.copy_(given, non_blocking=True)
        graph.replay()
        return graph.outputs

    def prefill(self, inputs: PassInputs, cache: SlotCache) -> tuple[Tensor, Tensor]:
        return self._prefill(inputs, cache)

    def _captured(self, inputs: PassInputs, cache: SlotCache) -> Graph:
        own = inputs.clone()
        replay, outputs = self._capture(lambda: self._run(own, cache))
        return Graph(own, replay, outputs)


class CudaCapture:
    """Captures CUDA graphs that share one memory pool; they never run at the same time."""

    def __init__(self) -> None:
        self._memory = torch.cuda.graph_pool_handle()

    def __call__(
        self, compute: Callable[[], tuple[Tensor, Tensor]]
    ) -> tuple[Callable[[], None], tuple[Tensor, Tensor]]:
        """Warm up on a side stream, as capturing demands, and record."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            outputs = compute()
        return graph.replay, outputs


def node_bucket(nodes: int) -> int:
    """The nodes of the smallest graph that holds so many."""
    largest = NODE_BUCKETS[-1]
    if nodes > largest:
        return -(-nodes // largest) * largest
    return NODE_BUCKETS[bisect_left(NODE_BUCKETS, nodes)]


def extent_bucket(extent: int) -> int:
    """The extent of the smallest graph that reaches so far."""
    return max(LEAST_EXTENT, 1 << (extent - 1).bit_length())
