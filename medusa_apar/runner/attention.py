"""Attention of nodes over the slots of their own pools, registered with transformers as attention functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig

from medusa_apar.linears.dtype import in_dtype

from .visible_attention import DTYPES, attend_to_visible, is_available

NAME = "medusa_apar"
VISIBLE = "medusa_apar_visible"
REPRODUCIBLE = "medusa_apar_reproducible"

FEW = 8
"""Nodes for each pool up to which visiting what a node sees is faster than a product of all with all."""

torch.library.define(
    "medusa_apar::attend",
    "(Tensor query, Tensor key, Tensor value, Tensor mask, Tensor? pool_nodes, Tensor? node_places, "
    "Tensor? attended_pools, float scaling, bool exact) -> Tensor",
)


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


def visible_slot_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    pool_nodes: Tensor | None = None,
    node_places: Tensor | None = None,
    attended_pools: Tensor | None = None,
    *,
    exact: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """`slot_attention` on the CPU; where there are few nodes for each pool, over the slots that each sees alone.

    Arguments are the same. `exact` sums in float64, and over these slots alone whatever the number of nodes. Keys and
    values of other dtypes than `DTYPES` are attended to as by `slot_attention`.
    """
    attend = torch.ops.medusa_apar.attend.default if torch.compiler.is_compiling() else _attend
    pools = pool_nodes, node_places, attended_pools
    output = attend(in_dtype(query, key.dtype), key, value, attention_mask, *pools, scaling, exact)
    return in_dtype(output, query.dtype), None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    pool_nodes: Tensor | None,
    node_places: Tensor | None,
    attended_pools: Tensor | None,
    scaling: float,
    exact: bool,
) -> Tensor:
    count, pools = 1, None
    if pool_nodes is not None and node_places is not None:
        count = len(pool_nodes)
        pools = node_places // pool_nodes.shape[1]
        pools = pools if attended_pools is None else attended_pools[pools]
    if key.dtype in DTYPES and (exact or query.shape[2] <= FEW * count):
        return attend_to_visible(query, key, value, in_dtype(mask, key.dtype), pools, scaling, exact=exact)
    groups = pool_nodes, node_places, attended_pools
    return slot_attention(nn.Identity(), query, key, value, mask, scaling, *groups)[0]


torch.library.impl("medusa_apar::attend", "CPU", _attend)


@torch.library.register_fake("medusa_apar::attend")  # type: ignore[untyped-decorator]
def _shape(query: Tensor, *others: Any) -> Tensor:
    _, heads, nodes, head_dim = query.shape
    return query.new_empty(1, nodes, heads, head_dim)


def reproducible_slot_attention(*arguments: Any, **named: Any) -> tuple[Tensor, None]:
    """`visible_slot_attention` summed in float64, rounded to the dtype of the query. Arguments are the same.

    The order of its sums depends on where slots lie and on the nodes beside a node. In float64 this is lost in the
    rounding; in float32 it would move a value to its neighbour, and quantisation would make that a step of 1 in 127.

    Keys and values are in the dtype of `attend_reproducibly`.
    """
    return visible_slot_attention(*arguments, exact=True, **named)


AttentionInterface.register(NAME, slot_attention)
AttentionInterface.register(VISIBLE, visible_slot_attention)
AttentionInterface.register(REPRODUCIBLE, reproducible_slot_attention)


def implementation_for(config: PretrainedConfig, dtype: torch.dtype, device: torch.device) -> str:
    """The name of the fastest attention over slots.

    Args:
        config: of the modules that attend.
        dtype: of keys and values.
        device: of the modules.
    """
    return VISIBLE if device.type == "cpu" and is_available(config, dtype, exact=False) else NAME


def attend_to_slots(config: PretrainedConfig, dtype: torch.dtype, device: torch.device) -> None:
    """Let modules of this config attend to slots, if it was loaded with sdpa. Arguments: see `implementation_for`."""
    if config._attn_implementation == "sdpa":
        config._attn_implementation = implementation_for(config, dtype, device)


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
    single = dtype != torch.float64 and is_available(config, torch.float32, exact=True)
    return torch.float32 if single else torch.float64


def visits_visible_alone(config: PretrainedConfig, dtype: torch.dtype, nodes: int, pools: int) -> bool:
    """Whether attention leaves out what a node does not see.

    Args:
        config: of modules that attend.
        dtype: of keys and values.
        nodes: of a pass.
        pools: that it looks at.
    """
    implementation = config._attn_implementation
    if implementation == REPRODUCIBLE:
        return dtype != torch.float64
    return implementation == VISIBLE and nodes <= FEW * pools
