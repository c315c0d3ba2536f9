"""The rule for headings: a section's root is its heading, its details are the text below it."""

from __future__ import annotations

import re

from .parts import Part
from .sentences import SENTENCE_STOP

_HEADING = re.compile(
    r"""^(?:
    (?P<marks>\#{1,6})[ \t]+\S.*
    |(?P<bold>\*\*[^*\n]+\*\*:?)[ \t]*
    |(?<![^\n]\n)[^\s\#>|*+-][^\n|]{0,78}(?<![.,;])\n(?P<underline>={3,}|-{3,})[ \t]*
    |(?P<title>(?<=\n\n)[^\W\d_][^\n.!?,;:*|]{1,60}:?)(?=\n\n)
    )$""",
    re.MULTILINE | re.VERBOSE,
)
_BOLD, _TITLE = 7, 8
"""Levels of bold lines and of lines that stand alone, below those of Markdown."""
LEAST_TITLES = 3
"""Lines that stand alone are headings from so many on: a title above and a signature below are not two sections."""
_NEEDED_LATER = re.compile(r"\W*(?:ingredients|materials|equipment|tools|supplies|definitions|given)\b", re.IGNORECASE)
"""Headings of sections that later ones build upon."""


def sections(text: str, start: int, end: int, min_items: int) -> list[Part]:
    """Sections of the highest level that has at least `min_items` of them."""
    found = [(_level(heading), heading) for heading in _HEADING.finditer(text, start, end)]
    levels = [level for level, _ in found]
    for level in sorted(set(levels)):
        if levels.count(level) < (max(min_items, LEAST_TITLES) if level == _TITLE else min_items):
            continue
        bounds = [(each, heading) for each, heading in found if each <= level]
        ends = [*(heading.start() for _, heading in bounds[1:]), end]
        parts = [
            Part(heading.start(), heading.end(), stop)
            for (each, heading), stop in zip(bounds, ends, strict=True)
            if each == level
        ]
        if level == _TITLE and any(_is_short(text, part) for part in parts):
            continue  # a list with blank lines between its items
        return [part for part in parts if not _NEEDED_LATER.match(text, part.start, part.root_end)]
    return []


def _level(heading: re.Match[str]) -> int:
    if heading["marks"]:
        return len(heading["marks"])
    if heading["underline"]:
        return 1 if heading["underline"].startswith("=") else 2
    return _BOLD if heading["bold"] else _TITLE


def _is_short(text: str, part: Part) -> bool:
    details = text[part.root_end : part.end].strip()
    return "\n" not in details and SENTENCE_STOP.search(details) is None
