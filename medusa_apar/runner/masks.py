"""The masks of a forward pass, in the form that the layers of a backbone take."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PretrainedConfig

from medusa_apar.kv_cache.placement import Placement

from .transfer import to_device


def attention_masks(
    config: PretrainedConfig, placement: Placement, dtype: torch.dtype, device: torch.device
) -> Tensor | dict[str, Tensor]:
    """What a supported model takes as `attention_mask`.

    Args:
        config: the model's.
        placement: the nodes, and what they may attend to.
        dtype: of the masks.
        device: of the masks.

    Returns:
        Additive masks `[1, 1, nodes, extent]`; where layers have different windows, one per layer type.
    """

    def mask(window: int | None) -> Tensor:
        seen = placement.mask
        if window is not None:
            seen = seen & (placement.slot_positions > placement.positions[:, None] - window)
        return additive(seen, dtype, device)

    windows = layer_windows(config)
    if len(set(windows.values())) == 1:
        return mask(next(iter(windows.values())))
    return {layer_type: mask(window) for layer_type, window in windows.items()}


def additive(seen: NDArray[np.bool_], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The mask `[1, 1, nodes, extent]` that is added to scores: 0 where a node sees a slot."""
    hidden = to_device(~seen, device)[None, None]
    return torch.zeros_like(hidden, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)


def layer_windows(config: PretrainedConfig) -> dict[str, int | None]:
    """How many positions back each type of layer attends, itself among them; None for all of them."""
    window: int | None = getattr(config, "sliding_window", None)
    layer_types = getattr(config, "layer_types", None)
    if layer_types is None:
        return {"full_attention" if window is None else "sliding_attention": window}
    return {layer_type: window if layer_type == "sliding_attention" else None for layer_type in set(layer_types)}
