"""The rule for paragraphs: a paragraph's root is its first sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from .markers import BULLET_LINE
from .parts import Part
from .sentences import first_sentence_end

_BREAK = re.compile(r"\n(?:[^\S\n]*\n)+")
_MARKUP_LINE = re.compile(rf"^[^\S\n]*(?:#|{BULLET_LINE}|\d{{1,3}}[.)]\s|\|)", re.MULTILINE)
_POINTS_BACK = re.compile(
    r"\s*(?:This|That|These|Those|It|He|She|They|His|Her|Their|Its|However|But|Then|Next|Therefore|Thus|So|Hence"
    r"|Instead|Otherwise|Consequently|Accordingly|Nevertheless|Afterwards?|Suddenly|Meanwhile|As|After|When|Once)\b"
)


def paragraph_parts(text: str, start: int, end: int) -> Iterator[Part]:
    """Paragraphs; one that begins by pointing back belongs to the details of the one before."""
    part: Part | None = None
    for first, last in _paragraphs(text, start, end):
        if _MARKUP_LINE.search(text, first, last):
            if part is not None:
                yield part
            part = None
        elif part is not None and _POINTS_BACK.match(text, first):
            part = replace(part, end=last)
        else:
            if part is not None:
                yield part
            sentence = first_sentence_end(text, first, last)
            introduces = text[first:last].rstrip().endswith((":", "："))
            part = None if sentence is None or introduces else Part(first, sentence, last)
    if part is not None:
        yield part


def _paragraphs(text: str, start: int, end: int) -> list[tuple[int, int]]:
    breaks = list(_BREAK.finditer(text, start, end))
    starts = [start, *(gap.end() for gap in breaks)]
    ends = [*(gap.start() for gap in breaks), end]
    return list(zip(starts, ends, strict=True))
