"""Responses of a file of conversations, or of a saved dataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .bad_rows import BadRowError, BadRows
from .conversations import Response, responses
from .files import read_rows

__all__ = ["BadRows", "Response", "read_responses"]


def read_responses(path: str | Path, bad_rows: BadRows) -> Iterator[Response]:
    """Yield the responses of a file or a saved dataset, row by row.

    `conversations.responses` tells which rows are read, and `files.read_rows` which files.

    Args:
        path: of a file, or of a folder that `datasets` has saved.
        bad_rows: counts the rows that cannot be used, and a file without rows.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: a packed file is cut off, or a file or folder cannot be read at all.
    """
    path = Path(path)
    is_empty = True
    for row, place in read_rows(path):
        is_empty = False
        try:
            if isinstance(row, BadRowError):
                raise row
            yield from responses(row, place)
        except BadRowError as error:
            bad_rows.add(str(error), place)
    if is_empty:
        bad_rows.add("a file without rows", path.name)
