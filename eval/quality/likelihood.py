"""How likely an answer is to the backbone, read from its beginning to its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from medusa_apar.model import MedusaAparModel


@torch.inference_mode()
def nats_of(model: MedusaAparModel, prompt: Tensor, answer: Sequence[int]) -> float:
    """Minus the log-likelihood of an answer, in nats, by one causal forward pass.

    Control tokens have no share in the softmax, as in mode `ar`: this is how likely plain decoding is to write the
    text, however it was written.

    Args:
        model: whose backbone reads.
        prompt: `[1, length]`.
        answer: its tokens, at least one.
    """
    backbone = cast(Any, model.backbone)
    length = len(answer)
    input_ids = torch.cat((prompt, torch.tensor([list(answer)])), dim=1).to(backbone.device)
    logits: Tensor = backbone(input_ids=input_ids, use_cache=False, logits_to_keep=length + 1).logits[
        0, -length - 1 : -1
    ]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if model.control is not None:
        logits[:, [model.control.fork_token_id, model.control.child_token_id]] = float("-inf")
    return float(cross_entropy(logits, input_ids[0, -length:], reduction="sum"))
