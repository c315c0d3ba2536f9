"""Turns of questions in one mode each, and their grouping by category."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..measurement.question_sets import Question
from ..measurement.tables import OVERALL

_DIGEST_LENGTH = 32


@dataclass(frozen=True, slots=True)
class ModeTurn:
    """Base of records of one turn in one mode.

    Attributes:
        question: what was asked.
        turn: counted from 1.
        mode: who answered.
    """

    question: Question
    turn: int
    mode: str


TurnT = TypeVar("TurnT", bound=ModeTurn)


def by_category(turns: Sequence[TurnT]) -> dict[tuple[str, str], list[TurnT]]:
    """Turns by category and mode; categories in the turns' order, then overall; modes in the turns' order."""
    categories = [*dict.fromkeys(turn.question.category for turn in turns), OVERALL]
    modes = dict.fromkeys(turn.mode for turn in turns)
    return {
        (category, mode): [
            turn for turn in turns if turn.mode == mode and category in (turn.question.category, OVERALL)
        ]
        for category in categories
        for mode in modes
    }


def digest_of(messages: Sequence[Mapping[str, str]]) -> str:
    """Short name of a conversation's content."""
    return hashlib.sha256(json.dumps(list(messages)).encode()).hexdigest()[:_DIGEST_LENGTH]
