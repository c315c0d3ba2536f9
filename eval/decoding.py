"""One answer in one mode, timed alike for all of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from medusa_apar.model import MedusaAparModel
from medusa_apar.modes import Mode
from medusa_apar.output import DecodingStats, MedusaAparOutput

BASELINE = "generate"
"""transformers' own `generate` with its KV cache: the name under which it stands beside the modes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of every answer."""

    max_new_tokens: int = 512
    max_threads: int = 8
    max_depth: int = 2


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call gave.

    Attributes:
        token_ids: the answer without its prompt.
        stats: the decoder's figures.
        seconds: wall time around the call.
    """

    token_ids: list[int]
    stats: DecodingStats
    seconds: float


def decode(model: MedusaAparModel, mode: str, input_ids: Tensor, limits: Limits) -> Answer:
    """Answer one prompt.

    Args:
        model: the model.
        mode: the name of a `Mode`, or `BASELINE`.
        input_ids: `[1, length]`.
        limits: limits of the answer.
    """
    input_ids = input_ids.to(model.backbone.device)
    if mode == BASELINE:
        return _decode_plainly(model, input_ids, limits.max_new_tokens)
    return _decode(model, Mode(mode), input_ids, limits)


def _decode(model: MedusaAparModel, mode: Mode, input_ids: Tensor, limits: Limits) -> Answer:
    start = _now(input_ids.device)
    output = model.generate(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=limits.max_new_tokens,
        do_sample=False,
        return_dict_in_generate=True,
        medusa=mode.medusa,
        apar=mode.apar,
        max_threads=limits.max_threads,
        max_depth=limits.max_depth,
    )
    seconds = _now(input_ids.device) - start
    assert isinstance(output, MedusaAparOutput)
    assert output.sequences is not None
    assert output.stats is not None
    return Answer(output.sequences[0, input_ids.shape[1] :].tolist(), output.stats, seconds)


def _decode_plainly(model: MedusaAparModel, input_ids: Tensor, max_new_tokens: int) -> Answer:
    control = model.control
    start = _now(input_ids.device)
    output: Tensor = cast(Any, model.backbone).generate(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        use_cache=True,
        suppress_tokens=[control.fork_token_id, control.child_token_id] if control else None,
        pad_token_id=_padding(model),
    )
    seconds = _now(input_ids.device) - start
    token_ids = output[0, input_ids.shape[1] :].tolist()
    slots = output.shape[1] - 1
    stats = DecodingStats(
        steps=len(token_ids) - 1,
        answer_tokens=len(token_ids),
        peak_slots=slots,
        ar_slots=slots,
        seconds=seconds,
    )
    return Answer(token_ids, stats, seconds)


def _padding(model: MedusaAparModel) -> int | None:
    config = model.backbone.generation_config
    ends: int | list[int] | None = config.eos_token_id
    padding: int | None = config.pad_token_id
    return padding if padding is not None else ends[0] if isinstance(ends, list) else ends


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
