"""What a judge's text says: a rating, or who is better."""

from __future__ import annotations

import re
from enum import Enum, StrEnum

LOWEST, HIGHEST = 1, 10
_RATINGS = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))


class Verdict(StrEnum):
    """Which of two answers is better."""

    A = "A"
    B = "B"
    TIE = "C"


class Outcome(float, Enum):
    """How an answer compares with the baseline's; their mean is the rate of wins, of which a tie is half a one."""

    WIN = 1.0
    TIE = 0.5
    LOSS = 0.0


def rating_of(text: str) -> float | None:
    """The rating in a judge's text: the first `[[7]]`, else the first `[7]`; None without one from 1 to 10."""
    match = next(filter(None, (pattern.search(text) for pattern in _RATINGS)), None)
    return rating if match and LOWEST <= (rating := float(match[1])) <= HIGHEST else None


def verdict_of(text: str) -> Verdict | None:
    """The verdict in a judge's text, `[[A]]`, `[[B]]` or `[[C]]`, the first of these that is there; None without."""
    return next((verdict for verdict in Verdict if f"[[{verdict}]]" in text), None)


def outcome_of(first: Verdict | None, second: Verdict | None) -> Outcome | None:
    """How an answer compares with the baseline's; a win, or a loss, only where both verdicts agree.

    Args:
        first: where the answer is A and the baseline's B; None where the judge gave none, and nothing is known then.
        second: where the baseline's answer is A.
    """
    if first is None or second is None:
        return None
    decided = {(Verdict.A, Verdict.B): Outcome.WIN, (Verdict.B, Verdict.A): Outcome.LOSS}
    return decided.get((first, second), Outcome.TIE)
