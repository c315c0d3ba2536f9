"""Path masks in the form in which a model attends: by its windows, and as blocks for flex attention.

A batch of rows has one boolean mask. transformers hands a mask of four dimensions to all layers as it is, also to those
that look back over a window alone; and eager attention adds what it is given.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from medusa_apar.runner.masks import layer_windows

FLEX = "flex_attention"
"""Name of flex attention among transformers' attention implementations."""


def block_mask(mask: Tensor) -> BlockMask:
    """The blocks of a boolean mask `[batch, 1, length, length]` that have anything to compute."""

    def may_attend(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return mask[row, 0, query, key]

    batch, _, queries, keys = mask.shape
    return create_block_mask(may_attend, batch, None, queries, keys, device=str(mask.device))


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a boolean mask is true, and the least number of a dtype elsewhere."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


def attend_along_paths(model: PreTrainedModel) -> RemovableHandle:
    """Let a model take boolean masks `[batch, 1, length, length]` of paths, beside `position_ids` along these.

    Returns:
        What undoes it. Masks of other dtypes, such as the decoder's, are left alone meanwhile.
    """

    def prepare(
        body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        paths = kwargs.get("attention_mask")
        if not isinstance(paths, Tensor) or paths.dtype != torch.bool:
            return args, kwargs
        config = cast(PreTrainedModel, body).config
        positions = kwargs["position_ids"]

        def mask(window: int | None) -> Tensor | BlockMask:
            seen = paths
            if window is not None:
                seen = seen & (positions[:, None, None] > positions[:, None, :, None] - window)
            if config._attn_implementation == FLEX:
                return block_mask(seen)
            if config._attn_implementation == "eager":
                return additive_mask(seen, cast(PreTrainedModel, body).dtype)
            return seen

        windows = layer_windows(config)
        if len(set(windows.values())) == 1:
            kwargs["attention_mask"] = mask(next(iter(windows.values())))
        else:
            kwargs["attention_mask"] = {layer_type: mask(window) for layer_type, window in windows.items()}
        return args, kwargs

    return model.base_model.register_forward_pre_hook(prepare, with_kwargs=True)
