"""Questions that were seen before, told by the words that they share with a new one."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Self
from zlib import crc32

BENCHMARKS = Path(__file__).with_name("benchmarks.json")
"""Shingles of the questions that `medusa-apar eval` asks: of MT-Bench, Vicuna Bench and the bundled sets."""
WORD = re.compile(r"\w+")
_SHINGLE = 4
"""Words in a row by which questions are compared."""
_ALIKE = 0.5
"""Share of the shorter question's shingles from which two are the same one."""


class KnownQuestions:
    """A set of questions that finds those that ask the same in nearly the same words."""

    def __init__(self) -> None:
        self._shingles: dict[int, list[int]] = defaultdict(list)
        self._sizes: list[int] = []

    @classmethod
    def of(cls, questions: Iterable[Iterable[int]]) -> Self:
        """Those whose shingles are given."""
        known = cls()
        for shingles in questions:
            known.add(shingles)
        return known

    def add(self, shingles: Iterable[int]) -> None:
        """Remember a question."""
        distinct = set(shingles)
        for shingle in distinct:
            self._shingles[shingle].append(len(self._sizes))
        self._sizes.append(len(distinct))

    def holds(self, shingles: set[int]) -> bool:
        """Whether a question shares half of its shingles, or of theirs, with one of these."""
        shared = Counter(number for shingle in shingles for number in self._shingles.get(shingle, ()))
        return any(count >= _ALIKE * min(len(shingles), self._sizes[number]) for number, count in shared.items())


def shingles_of(question: str) -> set[int]:
    """Checksums of all runs of four words of a question, or of all its words where it has fewer."""
    words = WORD.findall(question.casefold())
    count = max(1, len(words) - _SHINGLE + 1)
    return {crc32(" ".join(words[start : start + _SHINGLE]).encode()) for start in range(count)}


@cache
def benchmarks() -> KnownQuestions:
    """The questions of the benchmarks. No model is tuned on them."""
    return KnownQuestions.of(json.loads(BENCHMARKS.read_text(encoding="utf-8")))
