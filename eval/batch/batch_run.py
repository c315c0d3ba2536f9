"""The batch sweep: batches of growing size in every mode, in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from medusa_apar.model import MedusaAparModel

from ..decoding.baselines import BaselineOptions, padding
from ..decoding.decode import Limits, decode
from ..measurement.prompts import ChatPrompts
from ..measurement.question_sets import Question
from ..measurement.store import Record, RecordStore, rotated
from ..speed.speed_run import check_modes

BatchKey = tuple[int, int, str]

_WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedBatch(Record):
    """Base of records of one batch, answered in one mode.

    Attributes:
        round: counted from 1.
        mode: the name of a `Mode`, or `generate`.
        answer_tokens: visible tokens of all answers.
        steps: forward passes of the backbone after prefill.
        seconds: wall time around the call.
    """

    round: int
    mode: str
    answer_tokens: int
    steps: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Of the whole batch, prefill included."""
        return self.answer_tokens / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord(TimedBatch):
    """A batch of prompts; the rounds of a batch size have different ones, the modes of a round the same.

    Attributes:
        batch_size: prompts decoded together.
    """

    measured: ClassVar[str] = "batches"

    batch_size: int

    @property
    def key(self) -> BatchKey:
        return self.round, self.batch_size, self.mode


class BatchStore(RecordStore[BatchKey, BatchRecord]):
    """Finished batches in a folder."""

    record_type = BatchRecord


class BatchRun:
    """Has a model answer batches of questions in every mode and keeps the records.

    A round has every batch size, a batch size every mode; the order of the modes rotates, so that a drifting
    machine slows all of them alike. Batches take the questions' first turns one after the other, and begin again
    with the first question after the last.

    Args:
        model: the model.
        tokenizer: its tokenizer, with a chat template.
        questions: the questions.
        modes: names of modes, and `generate` or not; the other baselines decode one prompt at a time.
        batch_sizes: prompts in a batch.
        limits: limits of every answer.

    Raises:
        ValueError: if the model cannot decode in these modes, or cannot chat; if a prompt is too long.
    """

    def __init__(
        self,
        model: MedusaAparModel,
        tokenizer: PreTrainedTokenizerBase,
        questions: Sequence[Question],
        modes: Sequence[str],
        batch_sizes: Sequence[int],
        limits: Limits,
    ) -> None:
        self.model = model
        self.questions = questions
        self.modes = modes
        self.batch_sizes = batch_sizes
        self.limits = limits
        check_modes(model, modes, BaselineOptions())
        self._padding = padding(model) or 0
        prompts = ChatPrompts(model, tokenizer, limits.max_new_tokens)
        self._prompts = [prompts.first_turn(question)[0].tolist() for question in questions]

    def run(self, store: BatchStore, rounds: int) -> None:
        """Answer every batch that the store lacks, after a short one in every mode that warms up.

        Args:
            store: the finished batches.
            rounds: how often every batch size is measured.
        """
        batches = [
            (number, size, mode)
            for number in range(1, rounds + 1)
            for place, size in enumerate(self.batch_sizes)
            for mode in rotated(self.modes, number + place)
        ]
        store.fill(
            batches,
            lambda key: self._answer(*key),
            label=lambda key: f"{key[1]} prompts, {key[2]}",
            warm_up=self._warm_up,
        )

    def _warm_up(self) -> None:
        limits = replace(self.limits, max_new_tokens=min(_WARM_UP_TOKENS, self.limits.max_new_tokens))
        input_ids, attention_mask = self.batch(1, max(self.batch_sizes))
        for mode in self.modes:
            decode(self.model, mode, input_ids, limits, attention_mask=attention_mask)

    def _answer(self, number: int, size: int, mode: str) -> BatchRecord:
        input_ids, attention_mask = self.batch(number, size)
        answer = decode(self.model, mode, input_ids, self.limits, attention_mask=attention_mask)
        return BatchRecord(
            round=number,
            batch_size=size,
            mode=mode,
            answer_tokens=answer.stats.answer_tokens,
            steps=answer.stats.steps,
            seconds=answer.seconds,
        )

    def batch(self, number: int, size: int) -> tuple[Tensor, Tensor]:
        """The prompts of a round, padded on the left: token ids and attention mask, each `[size, length]`."""
        first = (number - 1) * size
        prompts = [self._prompts[(first + row) % len(self._prompts)] for row in range(size)]
        length = max(len(prompt) for prompt in prompts)
        missing = [length - len(prompt) for prompt in prompts]
        input_ids = [[self._padding] * pad + prompt for pad, prompt in zip(missing, prompts, strict=True)]
        mask = [[0] * pad + [1] * len(prompt) for pad, prompt in zip(missing, prompts, strict=True)]
        return torch.tensor(input_ids), torch.tensor(mask)
