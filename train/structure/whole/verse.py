"""Verse: poems and lyrics."""

from __future__ import annotations

import re

from ..markers import ITEM_LINE
from .blocks import blocks

_PART_OF_SONG = re.compile(
    r"^[ \t]*[*_#\[( ]*(?:Verse|Chorus|Pre-?Chorus|Bridge|Refrain|Outro|Hook|Stanza|Strophe|Couplet|Haiku)\b"
    r"[^\n.]{0,20}$",
    re.MULTILINE | re.IGNORECASE,
)
_HEADING = re.compile(r"[^\S\n]*(?:\#{1,6}[ ].*|[*_]{2}[^*_\n]+[*_]{2}:?[ \t]*)")
_WORDS = re.compile(r"[^\W\d_]{2}.*[ ].*[^\W\d_]{2}|[\u3040-\u9fff]{4}")
_LIST_LINE = re.compile(rf"{ITEM_LINE}|[ \t]*[\#|]|[^:\n]{{1,40}}:(?:\s|$)")
_SHORTEST_LINE, _LONGEST_LINE, _LONGEST_CAPITAL_LINE = 10, 60, 90
"""Characters of a line. Prose with hard line breaks has longer lines, most of which do not begin with a capital."""
_LEAST_STANZAS, _LEAST_LINES = 2, 4
_SHARE = 0.6


def is_verse(text: str) -> bool:
    """Whether a text is lyrics with named parts, or most of its lines are short ones in stanzas."""
    if sum(1 for _ in _PART_OF_SONG.finditer(text)) >= _LEAST_STANZAS:
        return True
    stanzas = [lines[1:] if _HEADING.fullmatch(lines[0]) else lines for lines in blocks(text)]
    verses = [lines for lines in stanzas if len(lines) > 1 and all(map(_is_line, lines))]
    count = sum(map(len, verses))
    return (
        count >= _LEAST_LINES
        and (len(verses) >= _LEAST_STANZAS or count > _LEAST_LINES)
        and count >= _SHARE * sum(map(len, stanzas))
    )


def _is_line(line: str) -> bool:
    words = line.strip()
    longest = _LONGEST_LINE if words[0].islower() else _LONGEST_CAPITAL_LINE
    return (
        _SHORTEST_LINE <= len(words) <= longest and _WORDS.search(line) is not None and _LIST_LINE.match(line) is None
    )
