"""Which texts are questions that can be answered, each kind once."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

SHORTEST, LONGEST = 3, 150
"""Words of a question."""
_SHINGLE = 4
"""Words in a row by which questions are compared."""
_ALIKE = 0.5
"""Share of the shorter question's shingles from which two are the same one."""

_WORD = re.compile(r"\w+")
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

    Args:
        excluded: questions that are refused, such as those of a benchmark.
    """

    def __init__(self, excluded: Iterable[str] = ()) -> None:
        self._shingles: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._sizes: list[int] = []
        for question in excluded:
            self._remember(_shingles_of(question))
        self._excluded = len(self._sizes)

    def reason_against(self, text: str) -> str | None:
        """Why a text is refused; None where it is a new question, which is remembered."""
        words = _WORD.findall(text)
        if not SHORTEST <= len(words) <= LONGEST:
            return f"not of {SHORTEST} to {LONGEST} words"
        if _PLACEHOLDER.search(text):
            return "with a placeholder"
        if text.rstrip().endswith((",", ":", ";", "-", "(")):
            return "cut off"
        if len(words) < _LEAST_MATERIAL and _ABSENT.search(text):
            return "about a text that is not there"
        shingles = _shingles_of(text)
        like = self._like(shingles)
        if like is not None:
            return "of a benchmark" if like < self._excluded else "a duplicate"
        self._remember(shingles)
        return None

    def _like(self, shingles: set[tuple[str, ...]]) -> int | None:
        shared = Counter(number for shingle in shingles for number in self._shingles.get(shingle, ()))
        for number, count in shared.most_common():
            if count >= _ALIKE * min(len(shingles), self._sizes[number]):
                return number
        return None

    def _remember(self, shingles: set[tuple[str, ...]]) -> None:
        for shingle in shingles:
            self._shingles[shingle].append(len(self._sizes))
        self._sizes.append(len(shingles))


def _shingles_of(text: str) -> set[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    count = max(1, len(words) - _SHINGLE + 1)
    return {tuple(words[start : start + _SHINGLE]) for start in range(count)}
