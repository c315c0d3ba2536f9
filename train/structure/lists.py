"""The rules for ordered lists and for bullets: an item's root is its title or first sentence."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from .markers import BULLET_LINE, Marker, find_markers
from .parts import Part
from .rules import Rule
from .sentences import item_root_end

_LIST_END = re.compile(rf"\n[ \t]*\n(?!{BULLET_LINE})(?=\S)")
_SAME_LEVEL = 1
"""Columns by which the indentation of items of one list may differ."""


def list_items(text: str, start: int, end: int, rules: Collection[Rule]) -> Iterator[Part]:
    """Items of the outermost lists in a text, one list after the other; deeper ones belong to their details."""
    markers = find_markers(text, start, end, rules)
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


def _successors(markers: Sequence[Marker]) -> list[Marker | None]:
    """For each marker the next one of its kind."""
    successors: list[Marker | None] = []
    latest: dict[str, Marker] = {}
    for marker in reversed(markers):
        successors.append(latest.get(marker.kind))
        latest[marker.kind] = marker
    return successors[::-1]
