"""Steps that run compiled, padded or replayed give the answers of plain steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medusa_apar import MedusaAparModel
from medusa_apar.kv_cache.placement import Placement
from medusa_apar.runner.cuda_graphs import NODE_BUCKETS, GraphedPass, extent_bucket, node_bucket
from medusa_apar.runner.model_runner import ModelRunner
from medusa_apar.runner.pass_inputs import PassInputs, PoolInputs

from ..conftest import (
    CONFIGS,
    VOCABULARY,
    forking_backbone,
    random_draft_vocabulary_heads,
    random_eagle3_heads,
    random_heads,
)
from ..engine.test_lossless import batch, decode
from .test_backbones import backbone as backbone_of_family

pytestmark = pytest.mark.integration

SAMPLED: dict[str, Any] = {"do_sample": True, "seed": 4, "temperature": 0.8}


class CountingBackend:
    """A backend for `torch.compile` that runs what it is given, and counts."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, example_inputs: list[Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


HEADS = {"medusa": random_heads, "sequential": random_draft_vocabulary_heads, "eagle3": random_eagle3_heads}


def model(family: str = "llama", seed: int = 3, heads: str = "medusa") -> MedusaAparModel:
    backbone = forking_backbone(family, seed=seed)
    return MedusaAparModel(backbone, HEADS[heads](backbone))


@pytest.fixture(autouse=True)
def _no_graphs_of_other_tests() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("heads", ["medusa", "sequential"])
def test_steps_of_all_sizes_share_a_graph(heads: str) -> None:
    compiled, backend = model(heads=heads), CountingBackend()
    compiled.compile(backend=backend)
    for nodes in (1, 7, 16):
        for length in (5, 70):
            _, ids, mask = batch(nodes, lengths=(length,))
            decode(compiled, ids, mask, nodes_per_step=nodes)
    assert backend.graphs == 5, "one for the backbone, and of the heads one for each beam"
    _, ids, mask = batch(2)
    decode(compiled, ids, mask, nodes_per_step=5)
    assert backend.graphs == 7, "two more for several pools"
    decode(compiled, ids[:2], mask[:2])
    assert backend.graphs == 7, "none for heads that draft less than they can: they were warmed up"


def test_heads_that_attend_draft_the_same_when_they_are_compiled() -> None:
    compiled, backend = model(heads="eagle3"), CountingBackend()
    _, ids, mask = batch(2, lengths=(5, 9, 3))
    plain = decode(compiled, ids, mask, nodes_per_step=12)
    compiled.compile(backend=backend)
    again = decode(compiled, ids, mask, nodes_per_step=12)
    assert torch.equal(again.sequences, plain.sequences)
    assert again.stats is not None
    assert plain.stats is not None
    assert again.stats.accepted_draft_tokens == plain.stats.accepted_draft_tokens > 0
    assert backend.graphs == 4, "two of the backbone and two of the heads: all pools, and some of them"


def test_a_full_pool_is_no_case_of_its_own() -> None:
    """Inductor compiles anew where all of a tensor is attended over."""
    with torch.inference_mode(), model().decoding() as (wrapped, _):
        (pool,) = wrapped.new_pools(1, 127)
        full = placed(pool, pool.open_row(), start=0, nodes=127)
        assert full.extent == 128
        assert full.extent < full.cache.stride


def test_pools_that_fall_idle_are_one_case_more() -> None:
    """A batch goes on with fewer and fewer pools; from half of them on attention copies them, whatever their number."""
    compiled, backend = model(), CountingBackend()
    _, ids, mask = batch(lengths=(5, 9, 3, 4, 7, 2, 6))
    options: dict[str, Any] = {"nodes_per_step": 9, "max_new_tokens": 60}
    plain = decode(compiled, ids, mask, **options).sequences
    compiled.compile(backend=backend)
    assert torch.equal(decode(compiled, ids, mask, **options).sequences, plain)
    assert backend.graphs == 6, "all pools, some of them, and four of the heads"


def test_models_of_one_shape_do_not_share_graphs() -> None:
    _, ids, mask = batch(2)
    models = [model(seed=3), model(seed=4)]
    plain = [decode(one, ids, mask).sequences for one in models]
    for one in models:
        one.compile(backend="eager")
    for one, answer in zip(models, plain, strict=True):
        assert torch.equal(decode(one, ids, mask).sequences, answer)


def test_changed_weights_are_compiled_anew() -> None:
    compiled, backend = model(), CountingBackend()
    compiled.compile(backend=backend)
    _, ids, mask = batch(2, lengths=(5,))
    decode(compiled, ids, mask)
    graphs = backend.graphs
    decode(compiled, ids, mask)
    assert backend.graphs == graphs
    with torch.no_grad():
        compiled.backbone.lm_head.weight[7] *= 2
    decode(compiled, ids, mask)
    assert backend.graphs == 2 * graphs


def test_another_attention_is_compiled_anew() -> None:
    compiled, backend = model(), CountingBackend()
    compiled.compile(backend=backend)
    _, ids, mask = batch(2, lengths=(5,))
    decode(compiled, ids, mask)
    graphs = backend.graphs
    compiled.backbone.set_attn_implementation("eager")  # type: ignore[operator]
    decode(compiled, ids, mask)
    assert backend.graphs > graphs


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inductor_gives_the_plain_logits(dtype: torch.dtype) -> None:
    """Weights packed and joined, sizes dynamic."""
    compiled = MedusaAparModel(forking_backbone(dtype=dtype))
    plain = ModelRunner(compiled.backbone)
    compiled.compile()
    with torch.inference_mode(), compiled.decoding() as (wrapped, _):
        (pool,) = wrapped.new_pools(1, 255)
        row = pool.open_row()
        prompt = placed(pool, row, start=0, nodes=70)
        wrapped.prefill(prompt, tokens(70), np.array([69]))
        pool.show(row, prompt.slots)
        for nodes in (16, 1, 3, 40):
            placement = placed(pool, row, start=70, nodes=nodes)
            ours = wrapped.forward(placement, tokens(nodes))
            theirs = plain.forward(placement, tokens(nodes))
            for our, their in zip(ours, theirs, strict=True):
                scale = float(their.abs().max())
                assert torch.allclose(our, their, atol=scale * 8 * torch.finfo(dtype).eps)
            placement.give_back(np.ones(nodes, dtype=np.bool_))


def tokens(count: int) -> Any:
    """Random token ids."""
    return torch.randint(4, VOCABULARY, (count,), generator=torch.Generator().manual_seed(count)).numpy()


def placed(pool: Any, row: int, start: int, nodes: int) -> Placement:
    """A chain of nodes after what a row sees."""
    return Placement.acquire(
        [pool],
        np.zeros(nodes, dtype=np.int64),
        rows=np.full(nodes, row),
        positions=np.arange(start, start + nodes),
        ancestors=np.tri(nodes, dtype=np.bool_),
    )


class Recording:
    """What a CUDA graph does, on the CPU: a replay runs the computation again, into the same tensors."""

    def __init__(self) -> None:
        self.captures = 0

    def __call__(
        self, compute: Callable[[], tuple[Tensor, Tensor]]
    ) -> tuple[Callable[[], None], tuple[Tensor, Tensor]]:
        self.captures += 1
        outputs = tuple(tensor.clone() for tensor in compute())

        def replay() -> None:
            for output, now in zip(outputs, compute(), strict=True):
                output.copy_(now)

        return replay, (outputs[0], outputs[1])


def replaying(wrapped: MedusaAparModel) -> tuple[GraphedPass, Recording]:
    """Have a model replay its steps."""
    recording = Recording()
    with wrapped.decoding() as (runner, _):
        graphed = runner.forward_pass = GraphedPass(runner.run, recording)
    return graphed, recording


WAYS: dict[str, Callable[[MedusaAparModel], object]] = {
    "compiled": lambda wrapped: wrapped.compile(backend="eager"),
    "replayed": replaying,
}


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("rows", [(9,), (5, 9, 3)], ids=["one row", "three rows"])
@pytest.mark.parametrize("family", sorted(CONFIGS))
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_another_way_to_run_steps_changes_nothing(
    way: Callable[[MedusaAparModel], object], family: str, rows: tuple[int, ...], options: dict[str, Any]
) -> None:
    _, ids, mask = batch(2, lengths=rows)
    wrapped = model(family)
    plain = decode(wrapped, ids, mask, **options)
    way(wrapped)
    for _ in range(2):
        assert torch.equal(plain.sequences, decode(wrapped, ids, mask, **options).sequences)


@pytest.mark.parametrize("name", ["mistral, sliding", "gemma3_text"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_windows_can_be_run_another_way(way: Callable[[MedusaAparModel], object], name: str) -> None:
    backbone = backbone_of_family(name, "sdpa")
    wrapped = MedusaAparModel(backbone, random_heads(backbone))
    _, ids, mask = batch(2)
    plain = decode(wrapped, ids, mask)
    way(wrapped)
    assert torch.equal(plain.sequences, decode(wrapped, ids, mask).sequences)


def test_a_graph_serves_every_step_of_its_bucket() -> None:
    graphed = model()
    way, recording = replaying(graphed)
    _, ids, mask = batch(2, lengths=(5,))
    output = decode(graphed, ids, mask, nodes_per_step=14)
    sizes = {graph.inputs.input_ids.shape[1] for graph in way._graphs.values()}
    assert sizes <= set(NODE_BUCKETS)
    assert output.stats is not None
    assert recording.captures == len(way._graphs) <= len(sizes) * 2 < output.stats.steps
    decode(graphed, ids, mask, nodes_per_step=14)
    assert recording.captures == len(way._graphs), "the second call finds its graphs, and the cache where it was"


def test_a_pool_that_grows_is_captured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ids, mask = batch(2, lengths=(5, 9))
    plain = decode(model(), ids, mask, nodes_per_step=3)
    monkeypatch.setattr("medusa_apar.engine.pools._first_capacity", lambda _: 15)
    graphed = model()
    way, recording = replaying(graphed)
    assert torch.equal(plain.sequences, decode(graphed, ids, mask, nodes_per_step=3).sequences)
    assert recording.captures > len(way._graphs)


def test_a_cache_of_another_size_is_not_taken() -> None:
    way = GraphedPass(lambda inputs, cache: (inputs.input_ids, inputs.slots), Recording())
    first = way.new_cache(layers=1, pools=1, capacity=64, most=1000)
    assert way.new_cache(layers=1, pools=1, capacity=32, most=1000) is first
    assert way.new_cache(layers=1, pools=1, capacity=32, most=63) is not first, "larger than the pool may be"
    assert way.new_cache(layers=1, pools=2, capacity=32, most=1000).pools == 2


def test_buckets_hold_what_they_are_asked_for() -> None:
    for nodes in range(1, 800):
        assert nodes <= node_bucket(nodes) <= max(2 * nodes, nodes + NODE_BUCKETS[-1])
    assert [extent_bucket(extent) for extent in (1, 256, 257, 5000)] == [256, 256, 512, 8192]


@pytest.mark.parametrize("name", ["llama", "mistral, sliding"])
def test_padding_nodes_see_only_themselves_and_nobody_sees_them(name: str) -> None:
    wrapped = ModelRunner(backbone_of_family(name, "sdpa"))
    with torch.inference_mode():
        (pool,) = wrapped.new_pools(1, 63)
        row = pool.open_row()
        placement = placed(pool, row, start=0, nodes=5)
        plain, _ = wrapped.forward(placement, tokens(5))
        padded = placement.padded(8, 64, 8)
        assert padded.mask[5:].sum() == 3
        assert padded.mask[5:, 0].all()
        assert not padded.mask[:5, 0].any()
        for layer in pool.cache.layers:
            assert layer.keys is not None
            assert layer.values is not None
            layer.keys[:, 0] = 1e6
            layer.values[:, 0] = 1e6
        logits, _ = wrapped.forward(padded, np.pad(tokens(5), (0, 3)))
        assert torch.allclose(logits[:5], plain, atol=1e-9)
        assert logits.isfinite().all()
        assert pool.held == 5


def test_inputs_are_copied_whole() -> None:
    masks = {"full_attention": torch.zeros(1, 1, 2, 64), "sliding_attention": torch.zeros(1, 1, 2, 64)}
    ids = torch.arange(2)
    inputs = PassInputs(ids[None], ids[None], masks, ids, PoolInputs(ids[None], ids))
    copies = inputs.clone().tensors()
    assert len(copies) == len(inputs.tensors()) == 7
    for copy, given in zip(copies, inputs.tensors(), strict=True):
        assert torch.equal(copy, given)
        assert copy.data_ptr() != given.data_ptr()
