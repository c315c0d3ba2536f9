"""Attention of draft tokens over a row and over their own paths, registered with transformers.

A draft token sees, of each level before it, the one token above it. Its scores there are products of two vectors, so
that training costs as much attention on every level as on the first. Source: SpecForge
(github.com/sgl-project/SpecForge), whose drafters are trained so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "medusa_apar_paths"


def path_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention over the columns of the mask and, of what comes after them, over one's own path.

    Args:
        module: the attention layer.
        query: `[1, heads, places, head_dim]`.
        key: `[1, kv_heads, length + levels * places, head_dim]`, those of the row and of each level.
        value: the same shape.
        attention_mask: additive, `[1, 1, places, length]`.
        scaling: of the scores.
        **kwargs: what models pass to other attention functions.

    Returns:
        `[1, places, heads, head_dim]`, and no attention weights.
    """
    _, heads, places, head_dim = query.shape
    kv_heads, length = key.shape[1], attention_mask.shape[-1]
    shared = heads // kv_heads
    rows = query.view(kv_heads, shared, places, head_dim)
    row_key, row_value = key[0, :, :length], value[0, :, :length]
    own_shape = kv_heads, -1, places, head_dim  # [kv_heads, levels, places, head_dim]
    own_key, own_value = (each[0, :, length:].reshape(own_shape) for each in (key, value))

    scores = (rows.flatten(1, 2) @ row_key.transpose(1, 2)).view(kv_heads, shared, places, length)
    scores = scores * scaling + attention_mask[0]
    own_scores = (rows[:, :, None] * own_key[:, None]).sum(dim=-1) * scaling  # [kv_heads, shared, levels, places]
    weights = torch.cat([scores, own_scores.transpose(2, 3)], dim=-1).softmax(dim=-1, dtype=torch.float32)
    weights = weights.to(value.dtype)
    output = (weights[..., :length].flatten(1, 2) @ row_value).view(rows.shape)
    own_weights = weights[..., length:].transpose(2, 3)[..., None]
    output = output + (own_weights * own_value[:, None]).sum(dim=2)
    return output.flatten(0, 1).transpose(0, 1)[None].contiguous(), None


AttentionInterface.register(NAME, path_attention)
