"""One call in one mode, timed alike for all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medusa_apar.model import MedusaAparModel
from medusa_apar.modes import Mode
from medusa_apar.output import DecodingStats, MedusaAparOutput

from .answer import Answer
from .baselines import Baseline, BaselineOptions, answer_lengths, generate
from .peers import Peer

GENERATE = str(Baseline.GENERATE)
"""transformers' own `generate` with its KV cache: the name under which it stands beside the modes."""

SEED = 0
"""Of sampling."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for every answer.

    Attributes:
        max_new_tokens: visible tokens of an answer.
        max_threads: threads in a step.
        max_depth: threads of this depth do not fork; None: as trained.
        fork_bias: of `generate`; None: as trained.
        sample: sample as the model's generation config says, with a fixed seed; otherwise decode greedily.
    """

    max_new_tokens: int = 512
    max_threads: int = 8
    max_depth: int | None = None
    fork_bias: float | None = None
    sample: bool = False

    @property
    def sampling(self) -> dict[str, Any]:
        """Arguments of `generate`."""
        return {} if self.sample else {"do_sample": False}


def decode(
    model: MedusaAparModel,
    mode: str,
    input_ids: Tensor,
    limits: Limits,
    *,
    attention_mask: Tensor | None = None,
    baselines: BaselineOptions | None = None,
    medusa_choices: Sequence[Sequence[int]] | None = None,
) -> Answer:
    """Answer a batch of prompts.

    Args:
        model: the model.
        mode: the name of a `Mode`, of a `Baseline` or of a `Peer`; a peer takes one row.
        input_ids: `[batch, length]`, padded on the left.
        limits: limits of each answer.
        attention_mask: `[batch, length]`; zeros mark padding. By default there is none.
        baselines: what baselines take beside the limits.
        medusa_choices: of `generate`; by default the budget chooses the draft tokens.

    Raises:
        ValueError: if the model, or a baseline's options, lack what the mode needs.
    """
    input_ids = input_ids.to(model.backbone.device)
    attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.to(input_ids.device)
    options = BaselineOptions() if baselines is None else baselines
    if mode in tuple(Peer):
        options.check(mode)
        assert options.peers is not None
        return options.peers.decode(Peer(mode), input_ids[0].tolist(), limits.max_new_tokens)
    if mode in tuple(Baseline):
        return _decode_with_baseline(model, Baseline(mode), input_ids, attention_mask, limits, options)
    return _decode_in_mode(model, Mode(mode), input_ids, attention_mask, limits, medusa_choices)


def _decode_in_mode(
    model: MedusaAparModel,
    mode: Mode,
    input_ids: Tensor,
    attention_mask: Tensor,
    limits: Limits,
    medusa_choices: Sequence[Sequence[int]] | None,
) -> Answer:
    start = _now(input_ids.device)
    output = model.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        max_new_tokens=limits.max_new_tokens,
        seed=SEED,
        return_dict_in_generate=True,
        medusa=mode.medusa,
        apar=mode.apar,
        max_threads=limits.max_threads,
        max_depth=limits.max_depth,
        fork_bias=limits.fork_bias,
        medusa_choices=medusa_choices,
        **limits.sampling,
    )
    seconds = _now(input_ids.device) - start
    assert isinstance(output, MedusaAparOutput)
    assert output.sequences is not None
    assert output.stats is not None
    answers = output.sequences[:1, input_ids.shape[1] :]
    token_ids = answers[0, : answer_lengths(answers, model)[0]].tolist()
    return Answer(token_ids, output.stats, seconds, output.trees[0] if output.trees else None)


def _decode_with_baseline(
    model: MedusaAparModel,
    baseline: Baseline,
    input_ids: Tensor,
    attention_mask: Tensor,
    limits: Limits,
    options: BaselineOptions,
) -> Answer:
    start = _now(input_ids.device)
    torch.manual_seed(SEED)
    arguments = {"max_new_tokens": limits.max_new_tokens, **limits.sampling}
    output, passes = generate(model, baseline, input_ids, attention_mask, options, **arguments)
    seconds = _now(input_ids.device) - start
    answers = output[:, input_ids.shape[1] :]
    lengths = answer_lengths(answers, model)
    stats = DecodingStats(
        steps=len(passes) - 1,
        answer_tokens=sum(lengths),
        seconds=seconds,
        first_token_seconds=passes[1] - start if len(passes) > 1 else seconds,
    )
    if baseline is Baseline.GENERATE:
        stats.peak_slots = output.shape[0] * (output.shape[1] - 1)
        stats.ar_slots = int(attention_mask.sum()) + sum(lengths) - len(lengths)
    return Answer(answers[0, : lengths[0]].tolist(), stats, seconds)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
