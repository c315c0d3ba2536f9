"""Responses of a file of conversations, or of a saved dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from .bad_rows import BadRowError, BadRows
from .conversations import Message, Response, questions, responses
from .files import read_rows

__all__ = ["BadRows", "Response", "read_prompts", "read_questions", "read_responses"]


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
    return _read(path, bad_rows, responses)


def read_questions(path: str | Path, bad_rows: BadRows) -> Iterator[tuple[list[Message], str]]:
    """Yield the questions of a file or a saved dataset, answered or not, and the place of each.

    Args:
        path: as for `read_responses`.
        bad_rows: counts the rows that cannot be used, and a file without rows.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: a packed file is cut off, or a file or folder cannot be read at all.
    """
    return _read(path, bad_rows, lambda row, place: [(messages, place) for messages in questions(row)])


def read_prompts(path: str | Path, bad_rows: BadRows) -> Iterator[Response]:
    """Yield what is to be answered: as `read_responses`, and questions without an answer with an empty one.

    Args:
        path: as for `read_responses`.
        bad_rows: counts the rows that cannot be used, and a file without rows.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: a packed file is cut off, or a file or folder cannot be read at all.
    """

    def prompts(row: Any, place: str) -> list[Response]:
        try:
            return responses(row, place)
        except BadRowError:
            return [
                Response(prompt=messages[-1]["content"], response="", history=tuple(messages[:-1]), place=place)
                for messages in questions(row)
            ]

    return _read(path, bad_rows, prompts)


_T = TypeVar("_T")


def _read(path: str | Path, bad_rows: BadRows, parts: Callable[[Any, str], list[_T]]) -> Iterator[_T]:
    path = Path(path)
    is_empty = True
    for row, place in read_rows(path):
        is_empty = False
        try:
            if isinstance(row, BadRowError):
                raise row
            yield from parts(row, place)
        except BadRowError as error:
            bad_rows.add(str(error), place)
    if is_empty:
        bad_rows.add("a file without rows", path.name)
