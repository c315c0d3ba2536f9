"""What can be told of an answer without a judge: likelihood, length, repetition; the measuring and its records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from medusa_apar.model import MedusaAparModel
from medusa_apar.train.own_text.defects import Defect, defects
from medusa_apar.train.own_text.repetition import distinct_ngrams

from ..answers.answer_files import Answers
from ..judge.inquiries import digest_of
from ..measurement.prompts import ChatPrompts
from ..measurement.question_sets import Question
from ..measurement.records import Record
from ..measurement.store import RecordStore
from .likelihood import nats_of


@dataclass(frozen=True, slots=True)
class AnsweredTurn:
    """One turn of a question, answered in one mode.

    Attributes:
        question: the question.
        turn: counted from 1.
        mode: who answered.
        messages: the conversation up to the user's turn, with the mode's own earlier answers.
        answer: the answer's text; empty where the turn was skipped.
    """

    question: Question
    turn: int
    mode: str
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

    measured: ClassVar[str] = "an answer"

    digest: str
    tokens: int
    nats: float | None
    distinct_4grams: float

    @property
    def key(self) -> str:
        return self.digest


class MeasuredStore(RecordStore[str, Measured]):
    """Measured answers in a folder: `measured.jsonl` and `settings.json`.

    Args:
        folder: made if it does not exist.
        settings: everything that the figures depend on; JSON values only.

    Raises:
        ValueError: if the folder holds answers measured otherwise, or a broken line.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(folder / "measured.jsonl", settings, Measured)


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
        missing = [digest for digest in by_digest if digest not in store]
        with tqdm(missing, initial=len(by_digest) - len(missing), total=len(by_digest), unit="answer") as progress:
            for digest in progress:
                turn = by_digest[digest]
                progress.set_postfix_str(f"{turn.question.category}, {turn.mode}")
                store.add(self.measure(turn))

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
