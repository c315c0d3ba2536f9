"""Attention in C: that of `slot_attention` in float64, to the last bit of float32."""

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
from medusa_apar.runner.attention import reproducible_slot_attention, slot_attention
from medusa_apar.runner.visible_attention import attend_to_visible, is_available

from ..conftest import random_sequential_heads
from ..engine.test_lossless import batch, decode
from .test_backbones import backbone

HIDDEN = torch.finfo(torch.float32).min

pytestmark = pytest.mark.skipif(
    not is_available(LlamaConfig(hidden_size=32, num_attention_heads=4)), reason="there is no C compiler"
)


def inputs(nodes: int, extent: int, heads: int, kv_heads: int, head_dim: int, pools: int = 1) -> list[Tensor]:
    """Query, keys, values and mask; all but the mask are views of larger tensors."""
    torch.manual_seed(nodes + extent)
    query = torch.randn(1, nodes, heads, head_dim).transpose(1, 2)
    key, value = torch.randn(2, kv_heads, pools, extent + 7, head_dim)[:, :, :, :extent].transpose(1, 2)
    seen = torch.rand(nodes, extent) < 0.4
    seen[:, -1] = True
    return [query, key, value, torch.zeros(nodes, extent).masked_fill(~seen, HIDDEN)]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(9, 3, 64), (4, 4, 8), (8, 1, 128), (4, 2, 20), (16, 2, 256)]
)
@pytest.mark.parametrize(("nodes", "extent"), [(1, 1), (2, 3), (13, 192), (70, 401)])
def test_it_rounds_what_float64_gives(nodes: int, extent: int, heads: int, kv_heads: int, head_dim: int) -> None:
    query, key, value, mask = inputs(nodes, extent, heads, kv_heads, head_dim)
    found = attend_to_visible(query, key, value, mask, None, scaling=head_dim**-0.5)
    wide = (each.double() for each in (query, key, value, mask[None, None]))
    wanted, _ = slot_attention(nn.Identity(), *wide, scaling=head_dim**-0.5)
    assert found.shape == (1, nodes, heads, head_dim)
    assert torch.equal(found, wanted.float())


def test_large_scores_overflow_nowhere() -> None:
    query, key, value, mask = inputs(5, 40, 4, 2, 16)
    found = attend_to_visible(1e4 * query, 1e4 * key, value, mask, None, scaling=1.0)
    best = (query[0] @ key[0].repeat_interleave(2, 0).transpose(1, 2) + mask).argmax(-1)
    assert torch.equal(found[0].transpose(0, 1), torch.stack([value[0, head // 2, best[head]] for head in range(4)]))


def test_neither_the_place_of_a_slot_nor_other_nodes_change_a_bit() -> None:
    query, key, value, mask = inputs(9, 100, 9, 3, 64)
    together = attend_to_visible(query, key, value, mask, None, 0.125)
    moved = torch.randperm(100)
    elsewhere = attend_to_visible(query, key[:, :, moved], value[:, :, moved], mask[:, moved], None, 0.125)
    alone = [attend_to_visible(query[:, :, at][:, :, None], key, value, mask[at][None], None, 0.125) for at in range(9)]
    assert torch.equal(together, elsewhere)
    assert torch.equal(together, torch.cat(alone, dim=1))


def test_a_mask_may_be_a_view() -> None:
    query, key, value, mask = inputs(9, 100, 9, 3, 64)
    wider = torch.nn.functional.pad(mask, (0, 5))[:, :100]
    found = attend_to_visible(query, key, value, wider, None, 0.125)
    assert torch.equal(found, attend_to_visible(query, key, value, mask, None, 0.125))


@pytest.mark.parametrize("attended", [None, [2, 0]])
def test_every_node_attends_to_its_own_pool(attended: list[int] | None) -> None:
    query, key, value, mask = inputs(7, 30, 4, 2, 16, pools=3)
    pools = torch.tensor([0, 2, 2, 0, 0, 2, 2] if attended else [0, 1, 2, 1, 1, 0, 2])
    rows = torch.tensor(attended or [0, 1, 2])
    pool_nodes = torch.zeros(len(rows), 4, dtype=torch.int64)
    node_places = torch.zeros(7, dtype=torch.int64)
    for row, pool in enumerate(rows.tolist()):
        nodes = torch.nonzero(pools == pool)[:, 0]
        pool_nodes[row, : len(nodes)] = nodes
        node_places[nodes] = 4 * row + torch.arange(len(nodes))
    groups = pool_nodes, node_places, None if attended is None else rows
    found, _ = reproducible_slot_attention(nn.Identity(), query, key, value, mask[None, None], 0.25, *groups)
    for node, pool in enumerate(pools.tolist()):
        own = query[:, :, node : node + 1], key[pool][None], value[pool][None], mask[node][None]
        assert torch.equal(found[:, node : node + 1], attend_to_visible(*own, None, 0.25))


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
    assert not is_available(LlamaConfig(hidden_size=32, num_attention_heads=4))
    assert "attention could not be built" in caplog.text
    assert "install a C compiler" in caplog.text


def test_answers_are_the_same_without_it() -> None:
    model = backbone("llama", "sdpa", dtype=torch.float32)
    wrapped = [MedusaAparModel(model, random_sequential_heads(model), weights="int8") for _ in range(2)]
    _, ids, mask = batch(seed=4, lengths=(5, 9, 3, 7))
    fast = decode(wrapped[0], ids, mask).sequences
    with patch.object(attention, "is_available", lambda _: False):
        slow = decode(wrapped[1], ids, mask).sequences
    assert torch.equal(fast, slow)


@pytest.mark.parametrize(("dtype", "kept"), [(torch.float32, torch.float32), (torch.float64, torch.float64)])
def test_keys_and_values_are_kept_as_they_are_computed(dtype: torch.dtype, kept: torch.dtype) -> None:
    with MedusaAparModel(backbone("llama", "sdpa", dtype=dtype), weights="int8").decoding() as (runner, _):
        assert runner.kv_dtype == kept
