"""What a judge's text says: a rating, or who is better."""

from __future__ import annotations

import re
from enum import StrEnum

LOWEST, HIGHEST = 1, 10
_RATINGS = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))


class Verdict(StrEnum):
    """Which of two answers is better."""

    A = "A"
    B = "B"
    TIE = "C"


class Outcome(StrEnum):
    """How an answer compares with the baseline's."""

    WIN = "win"
    TIE = "tie"
    LOSS = "loss"


def rating_of(text: str) -> float | None:
    """The rating in a judge's text: the first `[[7]]`, else the first `[7]`; None without one from 1 to 10."""
    for pattern in _RATINGS:
        match = pattern.search(text)
        if match:
            rating = float(match[1])
            return rating if LOWEST <= rating <= HIGHEST else None
    return None


def verdict_of(text: str) -> Verdict | None:
    """The verdict in a judge's text, `[[A]]`, `[[B]]` or `[[C]]`, the first of these that is there; None without."""
    return next((verdict for verdict in Verdict if f"[[{verdict}]]" in text), None)


def outcome_of(first: Verdict | None, second: Verdict | None) -> Outcome | None:
    """How an answer compares with the baseline's by two verdicts.

    Args:
        first: where the answer is A and the baseline's B.
        second: where the baseline's answer is A.

    Returns:
        A win, or a loss, only where both agree; None where one of them has no verdict.
    """
    if first is None or second is None:
        return None
    if (first, second) == (Verdict.A, Verdict.B):
        return Outcome.WIN
    if (first, second) == (Verdict.B, Verdict.A):
        return Outcome.LOSS
    return Outcome.TIE
