"""The record of one turn, and the store that keeps finished turns over an interruption."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from medusa_apar.output import DecodingStats

TurnKey = tuple[int | str, int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRecord:
    """One turn of one question, answered in one mode.

    Attributes:
        question_id: the question.
        category: its category.
        turn: counted from 1.
        mode: the name of a `Mode` or of a `Peer`.
        prompt_tokens: tokens of the whole conversation so far.
        answer: the answer's text.
        distinct_4grams: share of distinct 4-grams among the answer's tokens.
        seconds: wall time around the whole call, taken alike in all modes.
        stats: the decoder's figures. Peers give the tokens, steps and seconds, `generate` the slots too.
        finished_at: seconds since the epoch.
        skipped: why there is no answer; None if there is one.
    """

    question_id: int | str
    category: str
    turn: int
    mode: str
    prompt_tokens: int
    answer: str = ""
    distinct_4grams: float = 1.0
    seconds: float = 0.0
    stats: DecodingStats = field(default_factory=DecodingStats)
    finished_at: float = 0.0
    skipped: str | None = None

    @property
    def key(self) -> TurnKey:
        return self.question_id, self.turn, self.mode

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        """Read a line that `to_json` wrote.

        Raises:
            ValueError: if it is none.
        """
        row = json.loads(line)
        try:
            return cls(**{**row, "stats": DecodingStats(**row["stats"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"no record of a turn: {error}") from error

    def to_json(self) -> bytes:
        """The record as one line."""
        return json.dumps(asdict(self), ensure_ascii=False).encode() + b"\n"


class TurnStore:
    """Finished turns in a folder: `turns.jsonl`, written turn by turn, and `settings.json`.

    A folder belongs to one set of settings, because turns that were measured differently must not share a table.
    What an interruption left unfinished, the last line without its newline, is dropped.

    Args:
        folder: made if it does not exist.
        settings: everything that the figures depend on; JSON values only.

    Raises:
        ValueError: if the folder holds turns of other settings, or a broken line.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.path = folder / "turns.jsonl"
        self.records: dict[TurnKey, TurnRecord] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._check_settings(folder / "settings.json")
        if self.path.exists():
            self._read()
        self._file = self.path.open("ab")

    def _check_settings(self, path: Path) -> None:
        if not path.exists():
            if self.path.exists():
                raise ValueError(f"{self.path} exists without {path.name}; choose another folder with --out")
            unfinished = path.with_suffix(".partial")
            unfinished.write_text(json.dumps(self.settings, indent=2) + "\n", encoding="utf-8")
            os.replace(unfinished, path)
            return
        stored = json.loads(path.read_text(encoding="utf-8"))
        names = sorted(stored.keys() | self.settings.keys())
        changed = [
            f"{name} was {stored.get(name)!r}, is {self.settings.get(name)!r}"
            for name in names
            if stored.get(name) != self.settings.get(name)
        ]
        if changed:
            raise ValueError(
                f"out={str(self.folder)!r} holds a run with other settings ({'; '.join(changed)}); "
                "choose another folder with --out, or repeat the run with its own settings"
            )

    def _read(self) -> None:
        content = self.path.read_bytes()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            os.truncate(self.path, complete)
        for number, line in enumerate(content[:complete].splitlines(), start=1):
            try:
                record = TurnRecord.from_json(line)
            except ValueError as error:
                raise ValueError(f"{self.path}, line {number}: {error}") from error
            self.records[record.key] = record

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, key: TurnKey) -> bool:
        return key in self.records

    def __getitem__(self, key: TurnKey) -> TurnRecord:
        return self.records[key]

    def add(self, record: TurnRecord) -> None:
        """Keep a finished turn."""
        self._file.write(record.to_json())
        self._file.flush()
        self.records[record.key] = record
