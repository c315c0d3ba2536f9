"""What is broken about an answer's structure, told from its text alone.

A thread that writes nothing leaves an item without details, a fork that nobody takes leaves an introduction without
what it introduces, and items that do not know of each other number themselves wrongly. Code is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from itertools import zip_longest


class Defect(StrEnum):
    """A way in which an answer's structure is broken."""

    EMPTY_DETAIL = "empty detail"
    """A list item without text, or one that ends in a colon, or a heading, with nothing after it."""
    OPEN_END = "open end"
    """The last line is an introduction: it ends in a colon."""
    NUMBERING = "numbering"
    """A number does not follow the one before it; a 1, or a 0, begins anew."""


class _Kind(Enum):
    NUMBERED = auto()
    BULLET = auto()
    HEADING = auto()
    TEXT = auto()
    CODE = auto()


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that is not blank.

    Attributes:
        kind: what it is.
        level: of a heading its depth from 1 (a bold line: 7), otherwise columns of indentation.
        text: the text after the marker.
        number: of a numbered item or heading.
        delimiter: after the number.
    """

    kind: _Kind
    level: int
    text: str
    number: int | None = None
    delimiter: str = ""

    @property
    def introduces(self) -> bool:
        """Whether something has to follow."""
        bare = self.text.strip(_EMPHASIS)
        return not bare or bare.endswith(_COLONS)


_EMPHASIS = ' *_`"“”'
_COLONS = (":", "：")
_BOLD_LEVEL = 7
_DRIFT = 1
"""Columns by which the indentation of one list's items may differ."""

_FENCE = re.compile(r"\s*(`{3,}|~{3,})")
_HEADING = re.compile(r" {0,3}(#{1,6})(?:\s+(.*))?$")
_BOLD = re.compile(r"\s*(?:\*\*(?P<stars>[^*]+)\*\*|__(?P<bars>[^_]+)__)(?P<colon>\s*[:：])?\s*$")
_NUMBERED = re.compile(r"(\s*)(\d{1,3})([.)])(?:\s+(.*))?$")
_BULLET = re.compile(r"(\s*)[-*•](?:\s+(.*))?$")
_THEMATIC_BREAK = re.compile(r"\s*([-*_])(?:\s*\1){2,}\s*$")


def defects(answer: str) -> tuple[Defect, ...]:
    """What is broken about an answer's structure, each at most once, in the order of `Defect`."""
    lines = list(_lines(answer))
    found = {
        Defect.EMPTY_DETAIL: any(_is_empty(line, following) for line, following in zip_longest(lines, lines[1:])),
        Defect.OPEN_END: bool(lines) and _is_open(lines[-1]),
        Defect.NUMBERING: _is_misnumbered(lines),
    }
    return tuple(defect for defect in Defect if found[defect])


def _lines(answer: str) -> Iterator[_Line]:
    fence = None
    for raw in answer.expandtabs(4).splitlines():
        opened = _FENCE.match(raw)
        if fence is not None:
            if opened and opened[1].startswith(fence):
                fence = None
            continue
        if opened:
            fence = opened[1]
            yield _Line(_Kind.CODE, _indentation(raw), "")
        elif raw.strip() and not _THEMATIC_BREAK.match(raw):
            yield _line(raw)


def _line(raw: str) -> _Line:
    if match := _HEADING.match(raw):
        return _heading(len(match[1]), (match[2] or "").rstrip("# "))
    if match := _BOLD.match(raw):
        return _heading(_BOLD_LEVEL, (match["stars"] or match["bars"]).strip() + (match["colon"] or "").strip())
    if match := _NUMBERED.match(raw):
        return _Line(_Kind.NUMBERED, len(match[1]), (match[4] or "").strip(), int(match[2]), match[3])
    if match := _BULLET.match(raw):
        return _Line(_Kind.BULLET, len(match[1]), (match[2] or "").strip())
    return _Line(_Kind.TEXT, _indentation(raw), raw.strip())


def _heading(level: int, text: str) -> _Line:
    numbered = _NUMBERED.match(text.strip(_EMPHASIS))
    if numbered is None:
        return _Line(_Kind.HEADING, level, text)
    return _Line(_Kind.HEADING, level, text, int(numbered[2]), numbered[3])


def _indentation(raw: str) -> int:
    return len(raw) - len(raw.lstrip())


def _is_empty(line: _Line, following: _Line | None) -> bool:
    """Whether a line asks for something after it, and what follows is not it."""
    if line.kind is _Kind.HEADING:
        return _is_empty_heading(line, following)
    if line.kind not in (_Kind.NUMBERED, _Kind.BULLET) or not line.introduces:
        return False
    if following is None:
        return True
    if following.kind is _Kind.HEADING:
        return following.level < _BOLD_LEVEL
    deeper = following.level > line.level + _DRIFT
    if following.kind is _Kind.NUMBERED:
        return not deeper and following.number != 1
    return following.kind is _Kind.BULLET and line.kind is _Kind.BULLET and not deeper


def _is_empty_heading(line: _Line, following: _Line | None) -> bool:
    if line.level == _BOLD_LEVEL and not line.introduces:
        return False  # a bold line may be a title, or a closing word
    if following is None:
        return True
    if following.kind is not _Kind.HEADING or following.level > line.level:
        return False
    if line.level == following.level == _BOLD_LEVEL:  # one may be a section of the other, unless both are counted
        return line.number is not None and following.number is not None
    return True


def _is_open(last: _Line) -> bool:
    return last.kind is not _Kind.CODE and last.text.strip(_EMPHASIS).endswith(_COLONS)


@dataclass(slots=True)
class _OpenList:
    """A list, or headings of one level, that may go on."""

    is_heading: bool
    level: int
    delimiter: str
    number: int

    def holds(self, line: _Line) -> bool:
        """Whether a numbered line stands at this level."""
        if self.is_heading != (line.kind is _Kind.HEADING):
            return False
        return abs(self.level - line.level) <= (0 if self.is_heading else _DRIFT)

    def is_within(self, line: _Line) -> bool:
        """Whether a heading or a numbered line ends this list."""
        if self.is_heading != (line.kind is _Kind.HEADING):
            return not self.is_heading
        return self.level > line.level + (0 if self.is_heading else _DRIFT)


def _is_misnumbered(lines: Iterable[_Line]) -> bool:
    """Whether a number is neither the next one of its list nor the first of a new one."""
    open_lists: list[_OpenList] = []
    for line in lines:
        if line.kind is not _Kind.HEADING and line.number is None:
            continue
        open_lists = [other for other in open_lists if not other.is_within(line)]
        if line.number is None:
            continue
        own = next((other for other in open_lists if other.holds(line) and other.delimiter == line.delimiter), None)
        if own is None:
            open_lists.append(_OpenList(line.kind is _Kind.HEADING, line.level, line.delimiter, line.number))
            continue
        if line.number not in (own.number + 1, 0, 1):
            return True
        own.number, own.level = line.number, line.level
        del open_lists[open_lists.index(own) + 1 :]
    return False
