"""Rows that cannot be used: why, how many, and where the first of each kind is."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)


class BadRowError(ValueError):
    """Why a row cannot be used."""


@dataclass(slots=True)
class BadRows:
    """Rows that cannot be used, counted by reason, with the place of the first of each.

    Attributes:
        counts: number of rows by reason.
        first: place of the first row by reason: a file and a line, or the number of a row in a dataset.
    """

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, place: str) -> None:
        """Count one row."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.first.setdefault(reason, place)

    def update(self, other: BadRows) -> None:
        """Count the rows of another count, which come after these."""
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            self.first.setdefault(reason, other.first[reason])

    def __str__(self) -> str:
        rows = [f"{n} x {reason} (first: {self.first[reason]})" for reason, n in self.counts.items()]
        return "; ".join(rows) or "nothing"

    def warn(self) -> None:
        """Log what was left out, if anything."""
        if self.counts:
            logger.warning("left out: %s", self)
