"""transformers' logits processors, asked about the nodes of a step.

`generate` calls its processors with the rows of a batch. Here one row of the batch is many nodes, each after
a context of its own: the row's padding and prompt, the thread's tokens, and the draft tokens up to the node.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    LogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
    WatermarkLogitsProcessor,
)
from transformers.generation.logits_process import SynthIDTextWatermarkLogitsProcessor

from medusa_apar.tree.control_tokens import ControlTokens

from .openai_processors import AnswerPenalty, TokenBias

CONTEXT_FREE: tuple[type[LogitsProcessor], ...] = (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    MinPLogitsWarper,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TokenBias,
    TypicalLogitsWarper,
)
"""Processors that look at the scores alone: all nodes of all rows may be given to them at once."""

_NO_WARPERS = (InfNanRemoveLogitsProcessor, SuppressTokensLogitsProcessor, TokenBias)
WARPERS: tuple[type[LogitsProcessor], ...] = (
    *(kind for kind in CONTEXT_FREE if kind not in _NO_WARPERS),
    WatermarkLogitsProcessor,
)
"""What `generate` puts after the user's own processors."""

REFUSED: dict[type[LogitsProcessor], str] = {
    UnbatchedClassifierFreeGuidanceLogitsProcessor: "guidance_scale",
    SynthIDTextWatermarkLogitsProcessor: "watermarking_config",
}
"""Processors that carry state from call to call, and the arguments that ask for them."""


_OF_WORDS = (
    AnswerPenalty,
    RepetitionPenaltyLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    EncoderNoRepeatNGramLogitsProcessor,
)
"""Processors that go by the words of a context."""


_BY_ROW = (
    EncoderRepetitionPenaltyLogitsProcessor,
    EncoderNoRepeatNGramLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
)
"""Processors that know the rows of the batch."""


class WithoutControlTokens(LogitsProcessor):
    """A penalty that sees contexts as if control tokens were not there.

    Args:
        inner: the penalty; it looks at which tokens a context has, in which order, and not at its length.
        control: the control tokens.
    """

    def __init__(self, inner: LogitsProcessor, control: ControlTokens) -> None:
        self.inner = inner
        self.control = control

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        hidden = (input_ids == self.control.fork_token_id) | (input_ids == self.control.child_token_id)
        if not hidden.any():
            inner: Tensor = self.inner(input_ids, scores)
            return inner
        rows = zip(input_ids, hidden, scores, strict=True)
        return torch.cat([self.inner(ids[~gone][None], row[None]) for ids, gone, row in rows])


class RootOnly(LogitsProcessor):
    """A minimum length that holds for the answer, and so for the root thread alone.

    Args:
        inner: the processor.
        control: the control tokens; a context with `[Child]` in it is a child's.
    """

    def __init__(self, inner: LogitsProcessor, control: ControlTokens) -> None:
        self.inner = inner
        self.control = control

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        child = (input_ids == self.control.child_token_id).any(dim=1, keepdim=True)
        return torch.where(child, scores, self.inner(input_ids, scores))


class _OnDevice(LogitsProcessor):
    """Processors whose tensors are on another device than the backbone's."""

    def __init__(self, inner: LogitsProcessorList, device: torch.device) -> None:
        self.inner = inner
        self.device = device

    def __call__(self, input_ids: Any, scores: Any) -> Tensor:
        processed = _applied(self.inner, input_ids.to(self.device), scores.to(self.device))
        return processed.to(scores.device)


class _EachNode(LogitsProcessor):
    """A processor that can be asked about one node at a time only."""

    def __init__(self, inner: LogitsProcessor) -> None:
        self.inner = inner

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        rows = zip(input_ids, scores, strict=True)
        return torch.cat([self.inner(ids[None], row[None]) for ids, row in rows])


def check_supported(processors: LogitsProcessorList) -> None:
    """Raise a ValueError for processors that remember the order of their calls."""
    for processor in processors:
        if type(processor) in REFUSED:
            raise ValueError(
                f"{REFUSED[type(processor)]} is not supported: {type(processor).__name__} keeps state from token to "
                "token, and a step asks about many at once; generate with the backbone itself"
            )


def of_row(processors: LogitsProcessorList, row: int, rows: int, control: ControlTokens | None) -> LogitsProcessorList:
    """The processors of a batch as they are for the nodes of one of its rows.

    Args:
        processors: as `generate` builds them.
        row: number of the row.
        rows: rows of the batch.
        control: the control tokens; None where the backbone has none.
    """
    return LogitsProcessorList(_for_row(processor, row, rows, control) for processor in processors)


def same_for_all_rows(processors: LogitsProcessorList) -> bool:
    """Whether `of_row` gives the same processors for every row of a batch."""
    return not any(
        isinstance(each, _BY_ROW) or isinstance(getattr(each, "prompt_ignore_length", None), Tensor)
        for each in processors
    )


def on_device(processors: LogitsProcessorList, device: torch.device) -> LogitsProcessorList:
    """Processors that get their arguments on a device, and whose scores come back to where they came from."""
    return LogitsProcessorList([_OnDevice(processors, device)] if processors else [])


def _for_row(processor: LogitsProcessor, row: int, rows: int, control: ControlTokens | None) -> LogitsProcessor:
    kind = type(processor)
    own: Any = copy.copy(processor)
    if kind is RepetitionPenaltyLogitsProcessor:
        ignored = getattr(own, "prompt_ignore_length", None)
        own.prompt_ignore_length = int(ignored[row]) if isinstance(ignored, Tensor) else ignored
        processor = own
    elif kind is EncoderRepetitionPenaltyLogitsProcessor:
        own.encoder_input_ids = own.encoder_input_ids[row : row + 1]
        processor = _EachNode(own)
    elif kind is EncoderNoRepeatNGramLogitsProcessor:
        prompt = row // (rows // own.batch_size)  # num_return_sequences repeats rows, and does not say so
        own.batch_size, own.generated_ngrams = 1, [own.generated_ngrams[prompt]]
        processor = own
    elif kind is PrefixConstrainedLogitsProcessor:
        allowed: Callable[[int, Tensor], list[int]] = own._prefix_allowed_tokens_fn
        processor = PrefixConstrainedLogitsProcessor(lambda _, tokens: allowed(row, tokens), num_beams=1)
    if control is None:
        return processor
    if kind in _OF_WORDS:
        return WithoutControlTokens(processor, control)
    if kind in (MinLengthLogitsProcessor, MinNewTokensLengthLogitsProcessor):
        return RootOnly(processor, control)
    return processor


def split_warpers(processors: LogitsProcessorList) -> tuple[LogitsProcessorList, LogitsProcessorList]:
    """The processors up to the user's own, and the warpers after them; control-token rules come between."""
    first = next((at for at, item in enumerate(processors) if isinstance(item, WARPERS)), len(processors))
    return LogitsProcessorList(processors[:first]), LogitsProcessorList(processors[first:])


def split_at_top_k(warpers: LogitsProcessorList) -> tuple[LogitsProcessorList, LogitsProcessorList, int | None]:
    """The warpers before top-k, those from it on, and its k; all, none and None where those after it need more.

    What top-k removes has no part in what comes after it, so that these may be given the likeliest tokens alone.
    """
    for at, warper in enumerate(warpers):
        if isinstance(warper, TopKLogitsWarper):
            behind = warpers[at:]
            context_free = all(type(each) in WARPERS and type(each) in CONTEXT_FREE for each in behind)
            if context_free and warper.filter_value == -math.inf:
                return LogitsProcessorList(warpers[:at]), LogitsProcessorList(behind), warper.top_k
            break
    return warpers, LogitsProcessorList(), None


def is_context_free(processors: LogitsProcessorList) -> bool:
    """Whether no processor looks at the context."""
    return all(type(processor) in CONTEXT_FREE for processor in processors)


def process(processors: LogitsProcessorList, contexts: Sequence[list[int]], scores: Tensor) -> Tensor:
    """Processed scores `[nodes, vocabulary]` of nodes after contexts of any lengths, shorter ones first."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for node, context in enumerate(contexts):
        by_length[len(context)].append(node)
    processed = torch.empty_like(scores)
    for _, nodes in sorted(by_length.items()):
        input_ids: Any = torch.tensor([contexts[node] for node in nodes], device=scores.device)
        processed[nodes] = _applied(processors, input_ids, scores[nodes].clone()).to(scores.dtype)
    return processed


def _applied(processors: LogitsProcessorList, input_ids: Any, scores: Any) -> Tensor:
    """Apply processors in order; `LogitsProcessorList` would inspect their signatures at every call."""
    for processor in processors:
        scores = processor(input_ids, scores)
    processed: Tensor = scores
    return processed
