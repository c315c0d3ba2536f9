"""A part of a text, as rules find them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """A root with details after it: `text[start:root_end]` and `text[root_end:end]`."""

    start: int
    root_end: int
    end: int
