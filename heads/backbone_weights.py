"""Where a backbone's weights are used, and what they are, also where they are offloaded or quantised."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def execution_device(module: nn.Module) -> torch.device:
    """The device on which a module computes.

    That of its weights, except where accelerate (`device_map=`) keeps them elsewhere and brings them in for each use.
    """
    hook = getattr(module, "_hf_hook", None)
    for candidate in getattr(hook, "hooks", (hook,)):
        device = getattr(candidate, "execution_device", None)
        if device is not None:
            return torch.device(device)
    devices = (weight.device for weight in module.parameters())
    return next((device for device in devices if device.type != "meta"), torch.device("meta"))


def projection_weight(backbone: PreTrainedModel) -> Tensor:
    """The weight of a backbone's `lm_head`, `[vocab_size, hidden_size]` of the backbone's dtype.

    A quantised or offloaded weight has another shape or dtype, or no values; there an identity matrix is projected.
    """
    lm_head = backbone.get_output_embeddings()
    weight: Tensor = lm_head.weight.detach()
    if type(lm_head.weight) is nn.Parameter and weight.is_floating_point() and weight.device.type != "meta":
        return weight
    config = backbone.config.get_text_config()
    with torch.no_grad():
        rows = torch.eye(config.hidden_size, dtype=backbone.dtype, device=execution_device(lm_head))
        columns: Tensor = lm_head(rows)
        if getattr(lm_head, "bias", None) is not None:
            columns = columns - lm_head(torch.zeros_like(rows[:1]))
    return columns.T
