"""The record of one turn, and the store that keeps finished turns over an interruption."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from medusa_apar.output import DecodingStats

from ..measurement.store import Record, RecordStore
from .timeline import ThreadLine

TurnKey = tuple[int | str, int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRecord(Record):
    """One turn of one question, answered in one mode.

    Attributes:
        question_id: the question.
        category: its category.
        turn: counted from 1.
        mode: the name of a `Mode`, of a `Baseline` or of a `Peer`.
        prompt_tokens: tokens of the whole conversation so far.
        answer: the answer's text.
        distinct_4grams: share of distinct 4-grams among the answer's tokens.
        seconds: wall time around the whole call, taken alike in all modes.
        memory: bytes that the process held after the call.
        stats: the decoder's figures. Baselines give the tokens, steps and seconds, `generate` the slots too.
        threads: what each thread wrote, step by step; empty for baselines.
        finished_at: seconds since the epoch.
        skipped: why there is no answer; None if there is one.
    """

    measured: ClassVar[str] = "turns"

    question_id: int | str
    category: str
    turn: int
    mode: str
    prompt_tokens: int
    answer: str = ""
    distinct_4grams: float = 1.0
    seconds: float = 0.0
    memory: int = 0
    stats: DecodingStats = field(default_factory=DecodingStats)
    threads: tuple[ThreadLine, ...] = ()
    finished_at: float = 0.0
    skipped: str | None = None

    @property
    def key(self) -> TurnKey:
        return self.question_id, self.turn, self.mode

    @classmethod
    def _from_row(cls, row: dict[str, Any]) -> Self:
        lines = [
            ThreadLine(**{**line, "tokens": tuple((step, count) for step, count in line["tokens"])})
            for line in row["threads"]
        ]
        return cls(**{**row, "stats": DecodingStats(**row["stats"]), "threads": tuple(lines)})


class TurnStore(RecordStore[TurnKey, TurnRecord]):
    """Finished turns in a folder."""

    record_type = TurnRecord
