"""Finished measurements as lines of JSON."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self


@dataclass(frozen=True, slots=True)
class Record(ABC):
    """Base of dataclasses that hold one finished measurement.

    Attributes:
        measured: what records are of, in the plural, for messages.
    """

    measured: ClassVar[str]

    @property
    @abstractmethod
    def key(self) -> Any:
        """What was measured; unique in a store."""

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        """Read a line that `to_json` wrote.

        Raises:
            ValueError: if it is none.
        """
        row = json.loads(line)
        try:
            return cls._from_row(row)
        except (TypeError, KeyError) as error:
            raise ValueError(f"no record of {cls.measured}: {error}") from error

    @classmethod
    def _from_row(cls, row: dict[str, Any]) -> Self:
        """The record whose fields a row holds; records with dataclasses in their fields read them here."""
        return cls(**row)

    def to_json(self) -> bytes:
        """The record as one line."""
        return json.dumps(asdict(self), ensure_ascii=False).encode() + b"\n"
