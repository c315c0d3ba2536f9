"""Attention in C: that of `slot_attention`; summed in float64, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig

from medusa_apar import MedusaAparModel
from medusa_apar.runner import attention, visible_attention
from medusa_apar.runner.attention import (
    FEW,
    NAME,
    VISIBLE,
    attend_to_slots,
    reproducible_slot_attention,
    slot_attention,
    visible_slot_attention,
)
from medusa_apar.runner.visible_attention import DTYPES, attend_to_visible, is_available

from ..conftest import random_sequential_heads
from ..engine.test_lossless import batch, decode
from .test_backbones import backbone

HIDDEN = torch.finfo(torch.float32).min

pytestmark = pytest.mark.skipif(
    not is_available(LlamaConfig(hidden_size=32, num_attention_heads=4), torch.float32, exact=True),
    reason="there is no C compiler",
)


def inputs(nodes: int, extent: int, heads: int, kv_heads: int, head_dim: int, pools: int = 1) -> list[Tensor]:
    """Query, keys, values and mask; all but the mask are views of larger tensors."""
    torch.manual_seed(nodes + extent)
    query = torch.randn(1, nodes, heads, head_dim).transpose(1, 2)
    key, value = torch.randn(2, kv_heads, pools, extent + 7, head_dim)[:, :, :, :extent].transpose(1, 2)
    seen = torch.rand(nodes, extent) < 0.4
    seen[:, -1] = True
    return [query, key, value, torch.zeros(nodes, extent).masked_fill(~seen, HIDDEN)]


SHAPES = [(9, 3, 64), (4, 4, 8), (8, 1, 128), (4, 2, 24), (16, 2, 256)]
SIZES = [(1, 1), (2, 3), (13, 192), (70, 401)]


def in_float64(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    wide = (each.double() for each in (query, key, value, mask[None, None]))
    return slot_attention(nn.Identity(), *wide, scaling=query.shape[-1] ** -0.5)[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), SHAPES)
@pytest.mark.parametrize(("nodes", "extent"), SIZES)
def test_it_rounds_what_float64_gives(
    nodes: int, extent: int, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype
) -> None:
    given = [each.to(dtype) for each in inputs(nodes, extent, heads, kv_heads, head_dim)]
    found = attend_to_visible(*given, None, scaling=head_dim**-0.5, exact=True)
    assert found.shape == (1, nodes, heads, head_dim)
    assert torch.equal(found, in_float64(*given).to(dtype))


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 20), (torch.bfloat16, 8)])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), SHAPES)
@pytest.mark.parametrize(("nodes", "extent"), SIZES)
def test_summed_in_float32_it_is_close(
    nodes: int, extent: int, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, bits: int
) -> None:
    given = [each.to(dtype) for each in inputs(nodes, extent, heads, kv_heads, head_dim)]
    found = attend_to_visible(*given, None, scaling=head_dim**-0.5, exact=False)
    torch.testing.assert_close(found.double(), in_float64(*given), atol=2.0**-bits, rtol=2.0**-bits)


@pytest.mark.parametrize("exact", [False, True])
def test_large_scores_overflow_nowhere(exact: bool) -> None:
    query, key, value, mask = inputs(5, 40, 4, 2, 16)
    found = attend_to_visible(1e4 * query, 1e4 * key, value, mask, None, scaling=1.0, exact=exact)
    best = (query[0] @ key[0].repeat_interleave(2, 0).transpose(1, 2) + mask).argmax(-1)
    assert torch.equal(found[0].transpose(0, 1), torch.stack([value[0, head // 2, best[head]] for head in range(4)]))


def test_neither_the_place_of_a_slot_nor_other_nodes_change_a_bit() -> None:
    query, key, value, mask = inputs(9, 100, 9, 3, 64)
    together = attend_to_visible(query, key, value, mask, None, 0.125, exact=True)
    moved = torch.randperm(100)
    elsewhere = attend_to_visible(query, key[:, :, moved], value[:, :, moved], mask[:, moved], None, 0.125, exact=True)
    alone = [
        attend_to_visible(query[:, :, at][:, :, None], key, value, mask[at][None], None, 0.125, exact=True)
        for at in range(9)
    ]
    assert torch.equal(together, elsewhere)
    assert torch.equal(together, torch.cat(alone, dim=1))


def test_a_mask_may_be_a_view() -> None:
    query, key, value, mask = inputs(9, 100, 9, 3, 64)
    wider = torch.nn.functional.pad(mask, (0, 5))[:, :100]
    found = attend_to_visible(query, key, value, wider, None, 0.125, exact=True)
    assert torch.equal(found, attend_to_visible(query, key, value, mask, None, 0.125, exact=True))


def grouped(pools: Tensor, attended: list[int] | None, count: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """`pool_nodes`, `node_places` and `attended_pools` of nodes in these of so many pools."""
    rows = range(count) if attended is None else attended
    members = [torch.nonzero(pools == pool)[:, 0] for pool in rows]
    most = max(map(len, members))
    pool_nodes = torch.zeros(len(members), most, dtype=torch.int64)
    node_places = torch.zeros(len(pools), dtype=torch.int64)
    for row, nodes in enumerate(members):
        pool_nodes[row, : len(nodes)] = nodes
        node_places[nodes] = most * row + torch.arange(len(nodes))
    return pool_nodes, node_places, None if attended is None else torch.tensor(attended)


@pytest.mark.parametrize("attended", [None, [2, 0]])
def test_every_node_attends_to_its_own_pool(attended: list[int] | None) -> None:
    query, key, value, mask = inputs(7, 30, 4, 2, 16, pools=3)
    pools = torch.tensor([0, 2, 2, 0, 0, 2, 2] if attended else [0, 1, 2, 1, 1, 0, 2])
    groups = grouped(pools, attended, 3)
    found, _ = reproducible_slot_attention(nn.Identity(), query, key, value, mask[None, None], 0.25, *groups)
    for node, pool in enumerate(pools.tolist()):
        own = query[:, :, node : node + 1], key[pool][None], value[pool][None], mask[node][None]
        assert torch.equal(found[:, node : node + 1], attend_to_visible(*own, None, 0.25, exact=True))


@pytest.mark.parametrize("attended", [None, [2, 0]])
@pytest.mark.parametrize("nodes", [2, FEW, 2 * FEW + 1, 5 * FEW])
def test_few_nodes_and_many_are_attended_alike(nodes: int, attended: list[int] | None) -> None:
    query, key, value, mask = inputs(nodes, 30, 4, 2, 16, pools=3)
    groups = grouped(torch.arange(nodes) % 2 * 2, attended, 3)
    given = nn.Identity(), query, key, value, mask[None, None], 0.25, *groups
    found, wanted = visible_slot_attention(*given)[0], slot_attention(*given)[0]
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16, torch.float64])
def test_keys_of_any_dtype_and_a_mask_of_another(dtype: torch.dtype, exact: bool) -> None:
    query, key, value, mask = inputs(3, 30, 4, 2, 16)
    given = query.to(dtype), key.to(dtype), value.to(dtype)
    for other in (torch.float32, torch.bfloat16):
        added = torch.zeros_like(mask, dtype=other).masked_fill(mask != 0, torch.finfo(other).min)[None, None]
        found, _ = visible_slot_attention(nn.Identity(), *given, added, 0.25, exact=exact)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), in_float64(*given, mask).float(), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(
    ("dtype", "device", "chosen"),
    [
        (torch.float32, "cpu", VISIBLE),
        (torch.bfloat16, "cpu", VISIBLE),
        (torch.float16, "cpu", NAME),
        (torch.float64, "cpu", NAME),
        (torch.bfloat16, "cuda", NAME),
    ],
)
def test_models_on_the_cpu_attend_so(dtype: torch.dtype, device: str, chosen: str) -> None:
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, attn_implementation="sdpa")
    attend_to_slots(config, dtype, torch.device(device))
    assert config._attn_implementation == chosen


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("CC", "false")
    monkeypatch.setenv("MEDUSA_APAR_CACHE", str(tmp_path))
    monkeypatch.setattr(visible_attention.logger, "propagate", True)
    monkeypatch.setattr(visible_attention.logger.parent, "propagate", True)
    visible_attention._library.cache_clear()
    yield
    visible_attention._library.cache_clear()


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_there_is_none_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert not is_available(LlamaConfig(hidden_size=32, num_attention_heads=4), torch.float32, exact=True)
    assert "attention could not be built" in caplog.text
    assert "install a C compiler" in caplog.text


def test_answers_are_the_same_without_it() -> None:
    model = backbone("llama", "sdpa", dtype=torch.float32)
    wrapped = [MedusaAparModel(model, random_sequential_heads(model), weights="int8") for _ in range(2)]
    _, ids, mask = batch(seed=4, lengths=(5, 9, 3, 7))
    fast = decode(wrapped[0], ids, mask).sequences
    with patch.object(attention, "is_available", lambda *_, **__: False):
        slow = decode(wrapped[1], ids, mask).sequences
    assert torch.equal(fast, slow)


@pytest.mark.parametrize(("dtype", "kept"), [(torch.float32, torch.float32), (torch.float64, torch.float64)])
def test_keys_and_values_are_kept_as_they_are_computed(dtype: torch.dtype, kept: torch.dtype) -> None:
    with MedusaAparModel(backbone("llama", "sdpa", dtype=dtype), weights="int8").decoding() as (runner, _):
        assert runner.kv_dtype == kept
