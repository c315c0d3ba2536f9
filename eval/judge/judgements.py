"""Who judges, and the judgements, kept as soon as they are there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..measurement.store import Record, RecordStore
from .verdicts import rating_of, verdict_of

TEMPERATURE = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeOptions:
    """Who judges, and how requests are sent.

    Attributes:
        url: of the endpoint, without `/chat/completions`.
        model: the judge's name there.
        key_variable: the environment variable that holds the key.
        max_tokens: limit of a judgement.
        timeout: seconds to wait for a judgement.
        retries: further attempts, after growing pauses, where the endpoint is busy, fails or does not answer.

    Raises:
        ValueError: for an address that is none.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    max_tokens: int = 2048
    timeout: float = 120.0
    retries: int = 5

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"judge_url={self.url!r} is no address; give one like http://localhost:8000/v1")


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

    measured: ClassVar[str] = "judgements"

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


class JudgementStore(RecordStore[str, Judgement]):
    """Judgements of one judge in a folder: `judgements.jsonl` and `settings.json`.

    Both ways to judge share it, and so do further modes and questions: what was asked is never asked again, but for
    what the judge left undecided once it may say more.
    """

    record_type = Judgement

    def __init__(self, folder: Path, options: JudgeOptions) -> None:
        settings = {"judge_url": options.url, "judge_model": options.model, "temperature": TEMPERATURE}
        super().__init__(folder, settings)
        self.options = options

    def knows(self, digest: str, max_tokens: int) -> bool:
        """Whether an inquiry need not be asked, given the limit that its answer would have."""
        if (found := self.records.get(digest)) is None:
            return False
        decided = rating_of(found.text) is not None or verdict_of(found.text) is not None
        return decided or found.max_tokens >= max_tokens
