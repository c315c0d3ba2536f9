"""The run: every question in every mode, in turn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from medusa_apar.model import MedusaAparModel
from medusa_apar.modes import Mode
from medusa_apar.train.own_text.repetition import distinct_ngrams

from ..decoding.baselines import BaselineOptions
from ..decoding.decode import Limits, decode
from ..measurement.prompts import ChatPrompts
from ..measurement.question_sets import Question
from ..measurement.store import rotated
from .timeline import timeline
from .turns import TurnRecord, TurnStore

_WARM_UP_TOKENS = 64


class SpeedRun:
    """Has a model answer questions in every mode and keeps the records.

    Modes alternate turn by turn, and their order rotates question by question, so that a drifting machine
    slows all of them alike. A second turn follows the mode's own first answer.

    Args:
        model: the model.
        tokenizer: its tokenizer, with a chat template.
        questions: the questions.
        modes: names of modes and of baselines.
        limits: limits of every answer.
        baselines: what baselines take beside them.

    Raises:
        ValueError: if the model cannot decode in these modes, or cannot chat.
    """

    def __init__(
        self,
        model: MedusaAparModel,
        tokenizer: PreTrainedTokenizerBase,
        questions: Sequence[Question],
        modes: Sequence[str],
        limits: Limits,
        baselines: BaselineOptions | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.questions = questions
        self.modes = modes
        self.limits = limits
        self.baselines = BaselineOptions() if baselines is None else baselines
        check_modes(model, modes, self.baselines)
        self.prompts = ChatPrompts(model, tokenizer, limits.max_new_tokens)

    def run(self, store: TurnStore, *, warm_up: int = 0) -> None:
        """Answer every turn that the store lacks.

        Args:
            store: the finished turns.
            warm_up: questions that are decoded once, and shortly, before the first that is recorded.
        """
        asked = {question.question_id: question for question in self.questions}
        turns = [
            (question.question_id, turn, mode)
            for number, question in enumerate(self.questions)
            for turn in range(1, len(question.turns) + 1)
            for mode in rotated(self.modes, number)
        ]
        store.fill(
            turns,
            lambda key: self._answer(asked[key[0]], key[1], key[2], store),
            label=lambda key: f"{asked[key[0]].category}, {key[2]}",
            warm_up=lambda: self._warm_up(warm_up),
        )

    def _warm_up(self, times: int) -> None:
        limits = replace(self.limits, max_new_tokens=min(_WARM_UP_TOKENS, self.limits.max_new_tokens))
        for question in self.questions[:times]:
            prompt = self.prompts.tokenize([{"role": "user", "content": question.turns[0]}])
            if self.prompts.too_long(prompt) is None:
                for mode in self.modes:
                    decode(self.model, mode, prompt, limits, baselines=self.baselines)

    def _answer(self, question: Question, turn: int, mode: str, store: TurnStore) -> TurnRecord:
        identity: dict[str, Any] = {
            "question_id": question.question_id, "category": question.category, "turn": turn, "mode": mode,
        }  # fmt: skip
        messages = []
        for number, content in enumerate(question.turns[:turn], start=1):
            messages.append({"role": "user", "content": content})
            if number < turn:
                earlier = store[question.question_id, number, mode]
                if earlier.skipped is not None:
                    skipped = f"turn {number} was skipped"
                    return TurnRecord(**identity, prompt_tokens=0, finished_at=time.time(), skipped=skipped)
                messages.append({"role": "assistant", "content": earlier.answer})
        prompt = self.prompts.tokenize(messages)
        prompt_tokens = prompt.shape[1]
        reason = self.prompts.too_long(prompt)
        if reason is not None:
            return TurnRecord(**identity, prompt_tokens=prompt_tokens, finished_at=time.time(), skipped=reason)
        answer = decode(self.model, mode, prompt, self.limits, baselines=self.baselines)
        return TurnRecord(
            **identity,
            prompt_tokens=prompt_tokens,
            answer=str(self.tokenizer.decode(answer.token_ids, skip_special_tokens=True)).strip(),
            distinct_4grams=distinct_ngrams(answer.token_ids, 4),
            seconds=answer.seconds,
            memory=answer.memory,
            stats=answer.stats,
            threads=() if answer.tree is None else timeline(answer.tree, self.tokenizer),
            finished_at=time.time(),
        )


def check_modes(model: MedusaAparModel, modes: Sequence[str], baselines: BaselineOptions) -> None:
    """Raise a ValueError that names what a model, or the baselines' options, lack for a mode, and the remedy."""
    for name in modes:
        if name not in tuple(Mode):
            baselines.check(name)
            continue
        mode = Mode(name)
        if mode.medusa and model.heads is None:
            raise ValueError(f"mode={name!r} needs Medusa heads, which this model lacks; use --modes ar,apar")
        if mode.apar and model.control is None:
            raise ValueError(f"mode={name!r} needs control tokens, which this model lacks; use --modes ar,medusa")
