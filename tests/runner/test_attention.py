"""Every node attends to the slots of its own pool, as its mask says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medusa_apar import MedusaAparModel
from medusa_apar.kv_cache.placement import Placement
from medusa_apar.kv_cache.slot_cache import SlotCache
from medusa_apar.kv_cache.slot_pool import SlotPool
from medusa_apar.runner.attention import slot_attention
from medusa_apar.runner.model_runner import ModelRunner

from ..conftest import CONTROL, EOS, forking_backbone, random_heads
from ..engine.test_lossless import MAX_DEPTH, batch, decode
from ..oracle import Oracle

HEADS, HEAD_DIM = 4, 8


def attended_alone(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, pool: list[int]) -> Tensor:
    """One node and one head at a time."""
    shared = query.shape[1] // key.shape[1]
    output = torch.empty(1, query.shape[2], query.shape[1], query.shape[3], dtype=query.dtype)
    for node, at in enumerate(pool):
        for head in range(query.shape[1]):
            keys, values = key[at, head // shared], value[at, head // shared]
            scores = keys @ query[0, head, node] / query.shape[3] ** 0.5 + mask[0, 0, node]
            output[0, node, head] = scores.softmax(dim=0) @ values
    return output


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("sizes", [(7,), (3, 5, 1)], ids=["one pool", "three pools"])
def test_attention_is_that_of_every_node_alone(kv_heads: int, sizes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    cache = SlotCache(layers=1, pools=len(sizes), capacity=63)
    pools = [SlotPool(cache, index) for index in range(len(sizes))]
    of_node = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    rows = np.array([pool.open_row() for pool in pools])[of_node]
    nodes = len(of_node)
    placement = Placement.acquire(pools, of_node, rows, np.arange(nodes), np.tri(nodes, dtype=np.bool_))
    query = torch.randn(1, HEADS, nodes, HEAD_DIM, dtype=torch.float64)
    key, value = torch.randn(2, len(sizes), kv_heads, placement.extent, HEAD_DIM, dtype=torch.float64)
    mask = torch.where(torch.from_numpy(placement.mask), 0.0, -torch.inf)[None, None].double()
    groups = [torch.from_numpy(group) for group in placement.groups()] if len(sizes) > 1 else [None, None]
    output, _ = slot_attention(nn.Identity(), query, key, value, mask, HEAD_DIM**-0.5, *groups)
    assert torch.allclose(output, attended_alone(query, key, value, mask, of_node.tolist()))


@pytest.mark.parametrize(("pools", "used"), [(5, (3, 1)), (4, (2,)), (4, (0,)), (5, (0, 1, 4)), (3, (2,)), (1, (0,))])
def test_pools_without_nodes_are_left_out_where_they_are_the_most(pools: int, used: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    cache = SlotCache(layers=1, pools=pools, capacity=63)
    every = [SlotPool(cache, index) for index in range(pools)]
    of_node = np.repeat(used, 3)
    rows = np.array([pool.open_row() for pool in every])[of_node]
    placement = Placement.acquire(every, of_node, rows, np.arange(len(rows)), np.tri(len(rows), dtype=np.bool_))
    if 2 * max(2, len(used)) > pools:
        assert placement.attended is None
        return
    assert placement.attended is not None
    assert set(used) <= set(placement.attended.tolist())
    assert len(placement.attended) == max(2, len(used))
    query = torch.randn(1, HEADS, len(rows), HEAD_DIM, dtype=torch.float64)
    key, value = torch.randn(2, pools, 2, placement.extent, HEAD_DIM, dtype=torch.float64)
    mask = torch.where(torch.from_numpy(placement.mask), 0.0, -torch.inf)[None, None].double()
    groups = [torch.from_numpy(group) for group in (*placement.groups(), placement.attended)]
    output, _ = slot_attention(nn.Identity(), query, key, value, mask, HEAD_DIM**-0.5, *groups)
    assert torch.allclose(output, attended_alone(query, key, value, mask, of_node.tolist()))


def test_nodes_of_a_batch_do_not_score_the_slots_of_other_rows() -> None:
    """One call and one `[1, 1, nodes, extent]` mask, no wider than the longest row alone needs."""
    backbone = forking_backbone(seed=3)
    model = MedusaAparModel(backbone, random_heads(backbone))
    shapes: list[tuple[int, ...]] = []
    backbone.register_forward_pre_hook(
        lambda _, args, inputs: shapes.append(tuple(inputs["attention_mask"].shape)), with_kwargs=True
    )
    _, ids, mask = batch(3, lengths=(70, 70, 70))
    decode(model, ids, mask, apar=False, nodes_per_step=12)
    assert {shape[:2] for shape in shapes} == {(1, 1)}
    assert max(shape[2] for shape in shapes[3:]) >= 3, "rows share a call"
    assert max(shape[3] for shape in shapes) < 3 * 70, "but no slots"


def test_rows_share_a_pool_where_there_is_little_room() -> None:
    backbone = forking_backbone(seed=3)
    model = MedusaAparModel(backbone, random_heads(backbone))
    _, ids, mask = batch(3)
    separate = decode(model, ids, mask)
    with pytest.MonkeyPatch.context() as patch:
        counts: list[int] = []
        new_pools = ModelRunner.new_pools

        def counted(self: ModelRunner, pools: int, *rest: int) -> list[SlotPool]:
            counts.append(pools)
            return new_pools(self, pools, *rest)

        patch.setattr(ModelRunner, "new_pools", counted)
        shared = decode(model, ids, mask, max_slots=200)
    assert counts[-1] == 1
    assert torch.equal(separate.sequences, shared.sequences)


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.integration)], ids=["plain", "compiled"]
)
def test_a_switch_between_eager_and_sdpa_leaves_the_answers_right(compiled: bool) -> None:
    model = MedusaAparModel(forking_backbone(), random_heads(forking_backbone()))
    if compiled:
        model.compile(backend="eager")
    _, ids, mask = batch(seed=4, lengths=(5, 9))
    oracle = Oracle(model.backbone, CONTROL, EOS, MAX_DEPTH)
    for attention in ("sdpa", "eager", "sdpa"):
        model.backbone.set_attn_implementation(attention)  # type: ignore[operator]
        trees = decode(model, ids, mask, nodes_per_step=12).trees
        assert trees is not None
        assert sum(oracle.check(tree) for tree in trees) == 0
        assert model.config._attn_implementation == attention


def by_method(model: MedusaAparModel, attention: str) -> None:
    model.backbone.set_attn_implementation(attention)  # type: ignore[operator]


def by_config(model: MedusaAparModel, attention: str) -> None:
    model.config._attn_implementation = attention


@pytest.mark.parametrize("switch", [by_method, by_config])
@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.integration)], ids=["plain", "compiled"]
)
def test_attention_that_takes_no_mask_is_refused_before_a_step(
    switch: Callable[[MedusaAparModel, str], None], compiled: bool
) -> None:
    model = MedusaAparModel(forking_backbone(dtype=torch.float32))
    if compiled:
        model.compile(backend="eager")
    _, ids, mask = batch()
    switch(model, "flex_attention")
    with pytest.raises(ValueError, match=r"'flex_attention' takes no custom .* sdpa, eager, or switch it by set_attn"):
        decode(model, ids, mask)
    switch(model, "eager")
    assert decode(model, ids, mask).trees is not None
