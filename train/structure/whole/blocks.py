"""Blocks of a text: lines between blank lines."""

from __future__ import annotations

import re
from collections.abc import Iterator

_BLOCK = re.compile(r"(?:^[^\S\n]*\S.*(?:\n|\Z))+", re.MULTILINE)


def blocks(text: str) -> Iterator[list[str]]:
    """The lines of each block."""
    for block in _BLOCK.finditer(text):
        yield block[0].splitlines()
