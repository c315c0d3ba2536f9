"""The run: every question answered here and by medusa-llm in a second process, in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from transformers import PreTrainedTokenizerBase

from medusa_apar.eval.decoding.decode import GENERATE, Limits, decode
from medusa_apar.eval.decoding.json_process import JsonProcess
from medusa_apar.eval.measurement.prompts import ChatPrompts
from medusa_apar.eval.measurement.question_sets import Question
from medusa_apar.eval.measurement.store import Record, RecordStore, rotated
from medusa_apar.model import MedusaAparModel
from medusa_apar.modes import Mode

OWN = (GENERATE, str(Mode.AR), str(Mode.MEDUSA))
"""What answers in this process."""

_WORKER = Path(__file__).with_name("worker.py")
_WARM_UP_TOKENS = 32

SystemKey = tuple[int | str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemRecord(Record):
    """One question, answered by one system.

    Attributes:
        question_id: the question.
        system: `generate`, a mode, or medusa-llm with its choices.
        token_ids: the answer.
        steps: forward passes of the backbone after the one that reads the prompt.
        seconds: wall time in the process that decoded.
    """

    measured: ClassVar[str] = "answers"

    question_id: int | str
    system: str
    token_ids: list[int]
    steps: int
    seconds: float

    @property
    def key(self) -> SystemKey:
        return self.question_id, self.system

    @property
    def tokens_per_second(self) -> float:
        """Prefill included."""
        return len(self.token_ids) / self.seconds


class SystemStore(RecordStore[SystemKey, SystemRecord]):
    """Finished answers in a folder."""

    record_type = SystemRecord


class Worker:
    """The process in medusa-llm's environment.

    Args:
        python: that environment's interpreter.
        heads: folder in medusa-llm's format.
        eos_token_id: ends an answer.

    Raises:
        ValueError: if the process cannot be started.
    """

    def __init__(self, python: Path, heads: Path, eos_token_id: int) -> None:
        arguments = [str(python), str(_WORKER), str(heads), str(eos_token_id), str(torch.get_num_threads())]
        try:
            self._process = JsonProcess(arguments)
        except OSError as error:
            raise ValueError(
                f"worker_python={str(python)!r} does not run medusa-llm ({error}); "
                "`make bench-medusa-llm` builds its environment"
            ) from error
        self.versions: dict[str, str] = self._process.greeting

    def answer(self, input_ids: list[int], choices: Sequence[int], max_new_tokens: int) -> dict[str, Any]:
        """Decode one prompt.

        Raises:
            ChildProcessError: if the process has ended.
        """
        request = {"input_ids": input_ids, "choices": list(choices), "max_new_tokens": max_new_tokens}
        return self._process.ask(request)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close()


class Bench:
    """Answers questions with every system in turn.

    Args:
        model: around the exported backbone, with the heads that the worker has.
        worker: medusa-llm's process.
        tokenizer: of the model, with a chat template.
        choices: medusa-llm's trees.
        max_new_tokens: tokens of an answer.

    Raises:
        ValueError: if a tree asks for more heads than there are; if a prompt would leave too little room.
    """

    def __init__(
        self,
        model: MedusaAparModel,
        worker: Worker,
        tokenizer: PreTrainedTokenizerBase,
        choices: Sequence[Sequence[int]],
        max_new_tokens: int,
    ) -> None:
        self.model = model
        self.worker = worker
        _check_choices(model, choices)
        self.choices = {system_name(tree): tree for tree in choices}
        self.limits = Limits(max_new_tokens)
        self.systems = [*OWN, *self.choices]
        largest_tree = max(sum(accumulate(tree, mul)) for tree in choices)
        self.prompts = ChatPrompts(model, tokenizer, max_new_tokens + largest_tree)

    def run(self, questions: Sequence[Question], store: SystemStore) -> None:
        """Answer every question that the store lacks; the first, shortly, once more before them to warm up."""
        asked = {question.question_id: question for question in questions}
        store.fill(
            [(id_, system) for number, id_ in enumerate(asked) for system in rotated(self.systems, number)],
            lambda key: self._answer(asked[key[0]], key[1], self.limits),
            label=lambda key: key[1],
            warm_up=lambda: self._warm_up(questions[0]),
        )

    def _warm_up(self, question: Question) -> None:
        for system in self.systems:
            self._answer(question, system, replace(self.limits, max_new_tokens=_WARM_UP_TOKENS))

    def _answer(self, question: Question, system: str, limits: Limits) -> SystemRecord:
        prompt = self.prompts.first_turn(question)
        identity: dict[str, Any] = {"question_id": question.question_id, "system": system}
        if system in self.choices:
            reply = self.worker.answer(prompt[0].tolist(), self.choices[system], limits.max_new_tokens)
            return SystemRecord(**identity, **reply)
        answer = decode(self.model, system, prompt, limits)
        return SystemRecord(**identity, token_ids=answer.token_ids, steps=answer.stats.steps, seconds=answer.seconds)


def system_name(choices: Sequence[int]) -> str:
    """What medusa-llm is called when it decodes with a tree of these choices."""
    return f"medusa-llm {','.join(map(str, choices))}"


def _check_choices(model: MedusaAparModel, choices: Sequence[Sequence[int]]) -> None:
    heads = 0 if model.heads is None else model.heads.config.num_heads
    for tree in choices:
        if tree[0] != 1 or not 2 <= len(tree) <= heads + 1:
            raise ValueError(
                f"choices={','.join(map(str, tree))!r}: give 1, then the draft tokens of one to {heads} heads, "
                "as in 1,7,6"
            )
