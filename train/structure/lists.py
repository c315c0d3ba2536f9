"""The rules for ordered lists and for bullets: an item's root is its title or first sentence."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from .parts import Part
from .rules import Rule
from .sentences import item_root_end

_MARKER = re.compile(
    r"""^(?P<indent>[ \t]*)(?:
    (?P<number>\d{1,3})(?:[.):][ \t]+|[、．])
    |[A-Z][a-z]+[ ](?P<label>\d{1,3})[:.)–-][ \t]+  # "Step 1: "
    |(?P<letter>[a-z])\)[ \t]+
    |[-*+•◦▪‣–·][ \t]+
    )(?=\S)""",
    re.MULTILINE | re.VERBOSE,
)
_LIST_END = re.compile(r"\n[^\S\n]*\n(?![-*+•◦▪‣–·][ \t])(?=\S)")
_SAME_LEVEL = 1
"""Columns by which the indentation of items of one list may differ."""


@dataclass(frozen=True, slots=True)
class _Marker:
    """What an item begins with: `text[start:end]`.

    Attributes:
        indent: columns before it.
        kind: of its list: number, label, letter or bullet.
        ordinal: its number or the code of its letter; None of a bullet.
    """

    start: int
    end: int
    indent: int
    kind: str
    ordinal: int | None

    @staticmethod
    def of(match: re.Match[str]) -> _Marker:
        kind = next((name for name in ("number", "label", "letter") if match[name]), "bullet")
        sign = None if kind == "bullet" else match[kind]
        ordinal = None if sign is None else ord(sign) if kind == "letter" else int(sign)
        return _Marker(match.start(), match.end(), len(match["indent"].expandtabs(4)), kind, ordinal)

    @property
    def rule(self) -> Rule:
        return Rule.BULLETS if self.ordinal is None else Rule.ORDERED

    def comes_before(self, other: _Marker | None) -> bool:
        """Whether another marker counts on from this one."""
        return other is not None and self.ordinal is not None and other.ordinal == self.ordinal + 1


def list_items(text: str, start: int, end: int, rules: Collection[Rule]) -> Iterator[Part]:
    """Items of the outermost lists in a text, one list after the other; deeper ones belong to their details."""
    markers = [_Marker.of(match) for match in _MARKER.finditer(text, start, end)]
    markers = [marker for marker in markers if marker.rule in rules]
    outermost = min((marker.indent for marker in markers), default=0) + _SAME_LEVEL
    markers = [marker for marker in markers if marker.indent <= outermost]
    for marker, following in zip(markers, _successors(markers), strict=True):
        if marker.start < start:
            continue
        stop = end if following is None else following.start
        if not marker.comes_before(following) and (list_end := _LIST_END.search(text, marker.end, stop)):
            stop = list_end.start()
        yield Part(marker.start, item_root_end(text, marker.end, stop), stop)
        start = stop


def _successors(markers: Sequence[_Marker]) -> list[_Marker | None]:
    """For each marker the next one of its kind."""
    successors: list[_Marker | None] = []
    latest: dict[str, _Marker] = {}
    for marker in reversed(markers):
        successors.append(latest.get(marker.kind))
        latest[marker.kind] = marker
    return successors[::-1]
