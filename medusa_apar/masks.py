"""The masks of a forward pass, in the form that the layers of a backbone take."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PretrainedConfig


def attention_masks(
    config: PretrainedConfig,
    visible: NDArray[np.bool_],
    positions: NDArray[np.int64],
    slot_positions: NDArray[np.int64],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor | dict[str, Tensor]:
    """What a supported model takes as `attention_mask`.

    Args:
        config: the model's.
        visible: `[nodes, extent]`; true where a node may attend to a slot.
        positions: `[nodes]` path depths.
        slot_positions: `[extent]`; the path depth of what each slot holds.
        dtype: of additive masks.
        device: of the masks.

    Returns:
        `[1, 1, nodes, extent]`, boolean for sdpa and additive for eager attention; where layers have different
        windows, one such mask per layer type.
    """

    def mask(window: int | None) -> Tensor:
        seen = visible if window is None else visible & (slot_positions > positions[:, None] - window)
        flags = torch.from_numpy(seen).to(device)[None, None]
        if config._attn_implementation != "eager":
            return flags
        return torch.zeros_like(flags, dtype=dtype).masked_fill(~flags, torch.finfo(dtype).min)

    windows = layer_windows(config)
    if len(set(windows.values())) == 1:
        return mask(next(iter(windows.values())))
    return {layer_type: mask(window) for layer_type, window in windows.items()}


def layer_windows(config: PretrainedConfig) -> dict[str, int | None]:
    """How many positions back each type of layer attends, itself among them; None for all of them."""
    window: int | None = getattr(config, "sliding_window", None)
    layer_types = getattr(config, "layer_types", None)
    if layer_types is None:
        return {"full_attention" if window is None else "sliding_attention": window}
    return {layer_type: window if layer_type == "sliding_attention" else None for layer_type in set(layer_types)}
