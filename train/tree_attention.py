"""Path masks for models that attend by flex attention: as blocks, so that none is computed that no token may see."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import PreTrainedModel

FLEX = "flex_attention"
"""Name of flex attention among transformers' attention implementations."""


def block_mask(mask: Tensor) -> BlockMask:
    """The blocks of a boolean mask `[batch, 1, length, length]` that have anything to compute."""

    def may_attend(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return mask[row, 0, query, key]

    batch, _, queries, keys = mask.shape
    return create_block_mask(may_attend, batch, None, queries, keys, device=str(mask.device))


def mask_in_blocks(model: PreTrainedModel) -> None:
    """Let a model take boolean masks as they are, and as blocks while it attends by flex attention."""

    def prepare(
        body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        mask = kwargs.get("attention_mask")
        if cast(PreTrainedModel, body).config._attn_implementation == FLEX and isinstance(mask, Tensor):
            kwargs["attention_mask"] = block_mask(mask)
        return args, kwargs

    model.base_model.register_forward_pre_hook(prepare, with_kwargs=True)
