"""One form for the line ends and blanks of all scripts, with the way back to the text as it is."""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass

_BLANKS = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u2800\u3000\u3164"
_LINE_ENDS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_TABLE = str.maketrans(dict.fromkeys(_BLANKS, " ") | dict.fromkeys(_LINE_ENDS, "\n"))
_INVISIBLE = re.compile(
    "\r(?=\n)|(?<![^\\s\u200c\u200d])[\u200c\u200d]"
    "|[\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]"
)
"""Half of a CR LF, marks of no width, and unpaired surrogates, which no library takes. Joiners within words stay."""


@dataclass(frozen=True, slots=True)
class NormalizedText:
    """A text as the rules read it.

    Attributes:
        text: lines end in LF, blanks within lines are spaces or tabs, and there are no invisible characters.
        original: the text that it was made from.
        removed: the index in `text` at which each removed character was; rising.
    """

    text: str
    original: str
    removed: tuple[int, ...]

    @staticmethod
    def of(original: str) -> NormalizedText:
        """Normalize a text."""
        if original.isascii() and not any(mark in original for mark in "\r\v\f\x1c\x1d\x1e"):
            return NormalizedText(original, original, ())
        removed = tuple(mark.start() - count for count, mark in enumerate(_INVISIBLE.finditer(original)))
        text = _INVISIBLE.sub("", original) if removed else original
        return NormalizedText(text.translate(_TABLE), original, removed)

    def original_slice(self, start: int, end: int) -> str:
        """The part of the original that `text[start:end]` was made from, and what was left out around it.

        What was left out between adjacent ranges belongs to the second one, so that the slices of adjacent ranges are
        adjacent; that of the whole text is the whole original.
        """
        return self.original[0 if start == 0 else self._original_index(start) : self._original_index(end)]

    def _original_index(self, index: int) -> int:
        return len(self.original) if index == len(self.text) else index + bisect_left(self.removed, index)
