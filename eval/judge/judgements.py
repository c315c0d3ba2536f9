"""Judgements, kept as soon as they are there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..measurement.records import Record
from ..measurement.store import RecordStore
from .options import TEMPERATURE, JudgeOptions
from .verdicts import rating_of, verdict_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement(Record):
    """What the judge said to one inquiry.

    Attributes:
        digest: the inquiry's, so that modes with the same answer share one judgement.
        question_id: whose answers it is about.
        turn: counted from 1.
        prompt: name of the judge's prompt.
        text: the judge's words.
        max_tokens: limit that they had.
        finished_at: seconds since the epoch.
    """

    measured: ClassVar[str] = "a judgement"

    digest: str
    question_id: int | str
    turn: int
    prompt: str
    text: str
    max_tokens: int
    finished_at: float

    @property
    def key(self) -> str:
        return self.digest

    @property
    def decides(self) -> bool:
        """Whether the judge named a rating or a verdict."""
        return rating_of(self.text) is not None or verdict_of(self.text) is not None


class JudgementStore(RecordStore[str, Judgement]):
    """Judgements of one judge in a folder: `judgements.jsonl` and `settings.json`.

    Both ways to judge share it, and so do further modes and questions: what was asked is never asked again, but for
    what the judge left undecided once it may say more.

    Args:
        folder: made if it does not exist.
        options: who judges.

    Raises:
        ValueError: if the folder holds judgements of another judge, or a broken line.
    """

    def __init__(self, folder: Path, options: JudgeOptions) -> None:
        settings = {
            "judge_url": options.url,
            "judge_model": options.model,
            "temperature": TEMPERATURE,
        }
        super().__init__(folder / "judgements.jsonl", settings, Judgement)

    def knows(self, digest: str, max_tokens: int) -> bool:
        """Whether an inquiry need not be asked, given the limit that its answer would have."""
        judgement = self.records.get(digest)
        return judgement is not None and (judgement.decides or judgement.max_tokens >= max_tokens)
