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
from medusa_apar.tree.paragraph_tree import ParagraphTree

from .baselines import Baseline, BaselineOptions, answer_lengths, generate, is_baseline

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
        sample: sample as the model's generation config says, with a fixed seed; otherwise decode greedily.
    """

    max_new_tokens: int = 512
    max_threads: int = 8
    max_depth: int | None = None
    sample: bool = False

    @property
    def sampling(self) -> dict[str, Any]:
        """Arguments of `generate`."""
        return {} if self.sample else {"do_sample": False}


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call gave.

    Attributes:
        token_ids: the first row's answer without its prompt.
        tree: the threads that wrote it; None for baselines.
        stats: the decoder's figures over all rows. Of baselines the tokens, steps and seconds alone are known, of
            `generate` the slots too.
        seconds: wall time around the call.
    """

    token_ids: list[int]
    stats: DecodingStats
    seconds: float
    tree: ParagraphTree | None = None


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
        mode: the name of a `Mode` or of a `Baseline`.
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
    if is_baseline(mode):
        options = BaselineOptions() if baselines is None else baselines
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
    output, steps = generate(
        model, baseline, input_ids, attention_mask, options, max_new_tokens=limits.max_new_tokens, **limits.sampling
    )
    seconds = _now(input_ids.device) - start
    answers = output[:, input_ids.shape[1] :]
    lengths = answer_lengths(answers, model)
    stats = DecodingStats(steps=steps, answer_tokens=sum(lengths), seconds=seconds)
    if baseline is Baseline.GENERATE:
        stats.peak_slots = output.shape[0] * (output.shape[1] - 1)
        stats.ar_slots = int(attention_mask.sum()) + sum(lengths) - len(lengths)
    return Answer(answers[0, : lengths[0]].tolist(), stats, seconds)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
