"""What can be told of an answer without a judge: likelihood, length, repetition; the measuring and its records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from medusa_apar.model import MedusaAparModel
from medusa_apar.train.own_text.defects import Defect, defects
from medusa_apar.train.own_text.repetition import distinct_ngrams

from ..answers.answer_files import Answers
from ..answers.mode_turns import ModeTurn, digest_of
from ..measurement.prompts import ChatPrompts
from ..measurement.question_sets import Question
from ..measurement.store import Record, RecordStore


@dataclass(frozen=True, slots=True)
class AnsweredTurn(ModeTurn):
    """A turn and its answer.

    Attributes:
        messages: the conversation up to the user's turn, with the mode's own earlier answers.
        answer: the answer's text; empty where the turn was skipped.
    """

    messages: tuple[dict[str, str], ...]
    answer: str

    @property
    def digest(self) -> str:
        """Name of the conversation: modes that give the same answers share it."""
        return digest_of([*self.messages, {"role": "assistant", "content": self.answer}])

    @property
    def defects(self) -> tuple[Defect, ...]:
        """What is broken about the answer's structure."""
        return defects(self.answer)


def answered_turns(questions: Sequence[Question], answers: Mapping[str, Answers]) -> Iterator[AnsweredTurn]:
    """Every turn of every question in every mode."""
    for mode, given in answers.items():
        for question in questions:
            messages: list[dict[str, str]] = []
            for turn, (asked, answer) in enumerate(zip(question.turns, given[question.question_id], strict=True), 1):
                messages.append({"role": "user", "content": asked})
                yield AnsweredTurn(question, turn, mode, tuple(messages), answer)
                messages.append({"role": "assistant", "content": answer})


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Record):
    """Figures of one answer.

    Attributes:
        digest: the conversation's.
        tokens: of the answer's text.
        nats: minus its log-likelihood; None where the conversation does not fit into the model's context.
        distinct_4grams: share of distinct 4-grams among its tokens.
    """

    measured: ClassVar[str] = "measures"

    digest: str
    tokens: int
    nats: float | None
    distinct_4grams: float

    @property
    def key(self) -> str:
        return self.digest


class MeasuredStore(RecordStore[str, Measured]):
    """Measured answers in a folder."""

    record_type = Measured


class Measurement:
    """Measures answers under a model.

    Args:
        model: whose backbone reads the answers.
        tokenizer: its tokenizer, with a chat template.

    Raises:
        ValueError: if the model cannot chat.
    """

    def __init__(self, model: MedusaAparModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.prompts = ChatPrompts(model, tokenizer, max_new_tokens=1)

    def run(self, turns: Sequence[AnsweredTurn], store: MeasuredStore) -> None:
        """Measure every answer that the store lacks; empty ones are passed over."""
        by_digest = {turn.digest: turn for turn in turns if turn.answer}
        store.fill(
            by_digest,
            lambda digest: self.measure(by_digest[digest]),
            label=lambda digest: f"{by_digest[digest].question.category}, {by_digest[digest].mode}",
        )

    def measure(self, turn: AnsweredTurn) -> Measured:
        """The figures of an answer that is not empty, by one forward pass."""
        tokens = self.tokenizer(turn.answer, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert isinstance(tokens, list)
        prompt = self.prompts.tokenize(list(turn.messages))
        context = self.prompts.context
        fits = context is None or prompt.shape[1] + len(tokens) <= context
        return Measured(
            digest=turn.digest,
            tokens=len(tokens),
            nats=nats_of(self.model, prompt, tokens) if fits else None,
            distinct_4grams=distinct_ngrams(tokens, 4),
        )


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
