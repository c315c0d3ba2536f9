"""transformers' own ways to decode, which stand beside the modes: plain, prompt lookup, and with a draft model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from medusa_apar.checkpoint import load_backbone
from medusa_apar.model import MedusaAparModel

from .peers import Peer, Peers

PROMPT_LOOKUP_TOKENS = 10
"""Draft tokens of prompt lookup, transformers' `prompt_lookup_num_tokens`, as its documentation has them."""


class Baseline(StrEnum):
    """A way in which transformers decodes; control tokens are suppressed in all of them."""

    GENERATE = "generate"
    PROMPT_LOOKUP = "prompt-lookup"
    ASSISTED = "assisted"


@dataclass(frozen=True, slots=True)
class BaselineOptions:
    """What the baselines take beside the limits.

    Attributes:
        assistant: the draft model of assisted decoding; None where there is none.
        peers: the processes of llama.cpp; None where there are none.
    """

    assistant: PreTrainedModel | None = None
    peers: Peers | None = None

    def close(self) -> None:
        """End the processes of peers."""
        if self.peers is not None:
            self.peers.close()

    def check(self, mode: str) -> None:
        """Raise a ValueError where a baseline or a peer lacks what it takes."""
        if mode == Baseline.ASSISTED and self.assistant is None:
            raise ValueError(f"mode={str(mode)!r} needs a draft model; name one with --assistant")
        if mode in tuple(Peer) and self.peers is None:
            raise ValueError(f"mode={str(mode)!r} needs llama.cpp; add --peers llama.cpp")


def load_assistant(source: str, model: MedusaAparModel) -> PreTrainedModel:
    """Load a draft model in the dtype and onto the device of the model that it is to draft for.

    Raises:
        ValueError: if its vocabulary is another.
        OSError: if it cannot be read.
    """
    backbone = model.backbone
    assistant = load_backbone(source, dtype=backbone.dtype)
    own, wanted = (part.config.get_text_config().vocab_size for part in (assistant, backbone))
    if own != wanted:
        raise ValueError(
            f"assistant={source!r} has a vocabulary of {own} tokens, the model one of {wanted}; "
            "give a draft model with the model's own tokenizer"
        )
    return cast(PreTrainedModel, cast(nn.Module, assistant).to(backbone.device).eval())


def generate(
    model: MedusaAparModel,
    baseline: Baseline,
    input_ids: Tensor,
    attention_mask: Tensor,
    options: BaselineOptions,
    **arguments: Any,
) -> tuple[Tensor, list[float]]:
    """Decode with transformers alone.

    Args:
        model: whose backbone decodes.
        baseline: how.
        input_ids: `[batch, length]`, padded on the left; prompt lookup and assisted decoding take one row.
        attention_mask: `[batch, length]`.
        options: what the baselines take.
        **arguments: of `generate`, such as `max_new_tokens`.

    Returns:
        `[batch, length + new]`, and when each forward pass of the backbone began, by `time.perf_counter`; the first
        one reads the prompt.

    Raises:
        ValueError: if the baseline lacks its draft model.
    """
    options.check(baseline)
    control, backbone = model.control, cast(Any, model.backbone)
    passes: list[float] = []
    own: dict[Baseline, dict[str, Any]] = {
        Baseline.PROMPT_LOOKUP: {"prompt_lookup_num_tokens": PROMPT_LOOKUP_TOKENS},
        Baseline.ASSISTED: {"assistant_model": options.assistant},
    }
    counting = backbone.register_forward_pre_hook(lambda *_: passes.append(time.perf_counter()))
    try:
        output: Tensor = backbone.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            use_cache=True,
            suppress_tokens=[control.fork_token_id, control.child_token_id] if control else None,
            pad_token_id=padding(model),
            **own.get(baseline, {}),
            **arguments,
        )
    finally:
        counting.remove()
    return output, passes


def padding(model: MedusaAparModel) -> int | None:
    """The token that fills finished rows: the padding token, else the first EOS token."""
    config = model.backbone.generation_config
    ends: int | list[int] | None = config.eos_token_id
    pad: int | None = config.pad_token_id
    return pad if pad is not None else ends[0] if isinstance(ends, list) else ends


def answer_lengths(answers: Tensor, model: MedusaAparModel) -> list[int]:
    """Tokens of each row of `answers` `[batch, new]` up to and with its first EOS; what follows is padding."""
    ends = model.backbone.generation_config.eos_token_id
    ended = torch.isin(answers, torch.tensor([] if ends is None else ends, device=answers.device).to(answers.dtype))
    return [int(row.int().argmax()) + 1 if row.any() else len(row) for row in ended]
