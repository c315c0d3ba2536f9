"""Where sentences and titles end, in languages with and without blanks between words."""

from __future__ import annotations

import re

_CLOSING = r"[\"'”’»)\]*_」』）】]*"
_SENTENCE_END = re.compile(rf"[.!?؟]{_CLOSING}(?=\s)|[。！？।۔]{_CLOSING}")
_COLON = re.compile(r":[*_]*(?=\s)|：[*_]*")
_DASH = re.compile(r"[ \t][-–—](?=[ \t])")
_ABBREVIATION = re.compile(
    r"\b(?:[^\W\d_]|Dr|Drs|Mr|Mrs|Ms|Prof|St|Mt|Ft|vs|etc|cf|e\.g|i\.e|approx|No|Nr|Inc|Ltd|Co|Corp|Jr|Sr|Fig|Vol|pp?"
    r"|a\.m|p\.m|U\.S|bzw|usw|z\.B|d\.h|Sra?|Mme|Mlle)\.$"
)
_LONGEST_ABBREVIATION = len("approx.")
LONGEST_TITLE = 60
"""Characters before a dash that are still a title."""


def first_sentence_end(text: str, start: int, end: int) -> int | None:
    """Index behind the first sentence of `text[start:end]`; None where none ends in it."""
    for stop in _SENTENCE_END.finditer(text, start, end):
        period = stop.start() + 1
        abbreviated = _ABBREVIATION.search(text, max(start, period - _LONGEST_ABBREVIATION), period)
        if not abbreviated:
            return stop.end()
    return None


def item_root_end(text: str, start: int, end: int) -> int:
    """Where an item's root ends: after its first colon, its title, its first sentence or its first line."""
    line_end = text.find("\n", start, end)
    stops = [end if line_end < 0 else line_end]
    if colon := _COLON.search(text, start, end):
        stops.append(colon.end())
    if dash := _DASH.search(text, start, min(end, start + LONGEST_TITLE)):
        stops.append(dash.end())
    if (sentence := first_sentence_end(text, start, end)) is not None:
        stops.append(sentence)
    return min(stops)
