"""Which texts are questions that can be answered, each kind once."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .known_questions import WORD, KnownQuestions, benchmarks, shingles_of

SHORTEST, LONGEST = 3, 150
"""Words of a question."""

_PLACEHOLDER = re.compile(r"\[[^\]\n]{2,60}\]|\{\{?[^}\n]{1,40}\}?\}|<[a-z][a-z _-]{1,40}>|_{3,}", re.IGNORECASE)
_ABSENT = re.compile(
    r"\b(?:(?:the|this|that|these|given|provided) (?:following|above|below|given|provided|attached)"
    r"|(?:following|attached|given|provided) (?:text|passage|paragraph|sentence|article|document|code|image|table)s?"
    r"|(?:this|the) (?:passage|paragraph|article|text|excerpt|image|picture|document|conversation|story)"
    r"|above|below)\b",
    re.IGNORECASE,
)
_LEAST_MATERIAL = 40
"""Words from which a question may hold the text that it asks about."""


class QuestionFilter:
    """Tells questions that can be answered from fragments, and new ones from those that were seen.

    The questions of benchmarks are refused.

    Args:
        excluded: further questions that are refused.
    """

    def __init__(self, excluded: Iterable[str] = ()) -> None:
        self._excluded = KnownQuestions.of(map(shingles_of, excluded))
        self._seen = KnownQuestions()

    def reason_against(self, text: str) -> str | None:
        """Why a text is refused; None where it is a new question, which is remembered."""
        words = WORD.findall(text)
        if not SHORTEST <= len(words) <= LONGEST:
            return f"not of {SHORTEST} to {LONGEST} words"
        if _PLACEHOLDER.search(text):
            return "with a placeholder"
        if text.rstrip().endswith((",", ":", ";", "-", "(")):
            return "cut off"
        if len(words) < _LEAST_MATERIAL and _ABSENT.search(text):
            return "about a text that is not there"
        shingles = shingles_of(text)
        if benchmarks().holds(shingles):
            return "of a benchmark"
        if self._excluded.holds(shingles):
            return "excluded"
        if self._seen.holds(shingles):
            return "a duplicate"
        self._seen.add(shingles)
        return None
