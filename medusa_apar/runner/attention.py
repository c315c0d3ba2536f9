"""Attention of nodes over the slots of their own pools, registered with transformers as an attention function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig

from .visible_attention import attend_to_visible, is_available

NAME = "medusa_apar"
REPRODUCIBLE = "medusa_apar_reproducible"


def slot_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    pool_nodes: Tensor | None = None,
    node_places: Tensor | None = None,
    attended_pools: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention, every node over the slots of its own pool.

    Query heads that share a key and value head become further rows of it, so that keys and values are not repeated.

    Args:
        module: the attention layer.
        query: `[1, heads, nodes, head_dim]`.
        key: `[pools, kv_heads, extent, head_dim]`.
        value: the same shape.
        attention_mask: additive, `[1, 1, nodes, extent]`; its columns are slots of the node's own pool.
        scaling: of the scores.
        pool_nodes: `[attended, most]` the nodes of each pool, any node in excess places; None where there is one pool.
        node_places: `[nodes]` where each node is in `pool_nodes`, counted through; None likewise.
        attended_pools: `[attended]` the pools whose keys and values are looked at; None: all.
        **kwargs: what models pass to other attention functions; the mask has the window, and nothing drops out.

    Returns:
        `[1, nodes, heads, head_dim]`, and no attention weights.
    """
    if pool_nodes is not None:
        query = query[0][:, pool_nodes].transpose(0, 1)  # [attended, heads, most, head_dim]
        attention_mask = attention_mask[0, 0, pool_nodes][:, None]  # [attended, 1, most, extent]
    if attended_pools is not None:
        key, value = key[attended_pools], value[attended_pools]
    pools, heads, nodes, head_dim = query.shape
    kv_heads, extent = key.shape[1:3]
    shared = heads // kv_heads
    rows = query.reshape(pools, kv_heads, shared * nodes, head_dim)
    mask = attention_mask.to(query.dtype).expand(pools, shared, nodes, extent)
    mask = mask.reshape(pools, 1, shared * nodes, extent)
    output = nn.functional.scaled_dot_product_attention(rows, key, value, attn_mask=mask, scale=scaling)
    output = output.view(pools, heads, nodes, head_dim).transpose(1, 2)  # [pools, nodes, heads, head_dim]
    if node_places is not None:
        output = output.flatten(0, 1)[None, node_places]
    return output.contiguous(), None


def reproducible_slot_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    pool_nodes: Tensor | None = None,
    node_places: Tensor | None = None,
    attended_pools: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """`slot_attention` summed in float64, rounded to the dtype of the query. Arguments are the same.

    The order of its sums depends on where slots lie and on the nodes beside a node. In float64 this is lost in the
    rounding; in float32 it would move a value to its neighbour, and quantisation would make that a step of 1 in 127.

    Keys and values are in the dtype of `attend_reproducibly`.
    """
    wide = query.to(key.dtype)
    if key.dtype == torch.float64:
        output, _ = slot_attention(
            module, wide, key, value, attention_mask, scaling, pool_nodes, node_places, attended_pools
        )
        return output.to(query.dtype), None
    pools = None
    if pool_nodes is not None and node_places is not None:
        pools = node_places // pool_nodes.shape[1]
        pools = pools if attended_pools is None else attended_pools[pools]
    return attend_to_visible(wide, key, value, attention_mask[0, 0], pools, scaling).to(query.dtype), None


AttentionInterface.register(NAME, slot_attention)
AttentionInterface.register(REPRODUCIBLE, reproducible_slot_attention)


def attend_to_slots(config: PretrainedConfig) -> None:
    """Let modules of this config use `slot_attention`, if it was loaded with sdpa."""
    if config._attn_implementation == "sdpa":
        config._attn_implementation = NAME


def attend_reproducibly(config: PretrainedConfig, dtype: torch.dtype) -> torch.dtype:
    """Let modules of this config, which was loaded with sdpa, use `reproducible_slot_attention`.

    Args:
        config: the model's.
        dtype: of the model.

    Returns:
        The dtype in which keys and values have to be kept: float32 where it holds them and `visible_attention` can be
        built, else float64.
    """
    config._attn_implementation = REPRODUCIBLE
    return torch.float32 if dtype != torch.float64 and is_available(config) else torch.float64
