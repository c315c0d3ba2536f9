"""Reading training responses: conversations of the field's formats, a file or a dataset at a time, row by row.

A row is `{"prompt", "response"}`, OpenAI's `{"messages": [{"role", "content"}]}`, or ShareGPT's and FastChat's
`{"conversations": [{"from", "value"}]}`. Rows come as JSON lines or as one JSON array, plain or .xz or .gz, or in a
folder that `datasets` has saved. Every answer of a conversation is a response of its own.
"""

from __future__ import annotations

import gzip
import json
import logging
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import ijson
from datasets import Dataset, load_from_disk

from .command import InputError

logger = logging.getLogger(__name__)

_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
}
"""Roles of a chat template by their names in the formats."""

_TURNS = {"messages": ("role", "content"), "conversations": ("from", "value")}
"""Lists of turns: how a turn names its speaker and its text."""

_OPENERS: dict[str, Callable[..., IO[Any]]] = {".xz": lzma.open, ".gz": gzip.open}

Message = dict[str, str]
"""`role` and `content`, as chat templates take them."""


@dataclass(frozen=True, slots=True)
class Response:
    """One answer, what it answers, and the messages before."""

    prompt: str
    response: str
    history: tuple[Message, ...] = ()

    @property
    def question(self) -> list[Message]:
        """All that comes before the answer."""
        return [*self.history, {"role": "user", "content": self.prompt}]


@dataclass(slots=True)
class BadRows:
    """Rows that could not be used, counted by reason, with the first of them by line number."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, where: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.first.setdefault(reason, where)

    def __str__(self) -> str:
        rows = [f"{n} x {reason} (first: {self.first[reason]})" for reason, n in self.counts.items()]
        return "; ".join(rows) or "nothing"

    def warn(self) -> None:
        """Log what was left out, if anything."""
        if self.counts:
            logger.warning("left out: %s", self)


class _UnusableError(ValueError):
    """Why a row cannot be used."""


def read_responses(path: str | Path, bad_rows: BadRows) -> Iterator[Response]:
    """Yield the usable rows of a file or a saved dataset; the others are counted in `bad_rows`.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if a packed file is cut off, a file is not what its name says, or there is no row.
    """
    path = Path(path)
    number = 0
    for number, row in enumerate(_rows(path), start=1):
        try:
            yield from _responses(row)
        except _UnusableError as error:
            bad_rows.add(str(error), f"{path.name}:{number}")
    if number == 0:
        raise InputError(f"{path}: holds no rows; give a file or dataset with conversations")


def _rows(path: Path) -> Iterator[Any]:
    """The rows of a file; lines as they stand."""
    if path.is_dir():
        yield from _saved_dataset(path)
        return
    with _reading(path), _OPENERS.get(path.suffix, open)(path, "rb") as file:
        start = file.read(1)
        while start.isspace():
            start = file.read(1)
        file.seek(0)
        if start == b"[" and ".jsonl" not in path.suffixes:
            yield from ijson.items(file, "item")
        else:
            yield from file


def _saved_dataset(folder: Path) -> Iterator[Any]:
    try:
        dataset = load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}: no dataset that `datasets` has saved ({error}); give a file of JSON lines"
        ) from error
    if not isinstance(dataset, Dataset):
        raise InputError(f"{folder}: holds the splits {', '.join(dataset)}; give the folder of one of them")
    yield from dataset


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: not a whole {path.suffix} file ({error}); get it again") from error
    except ijson.JSONError as error:
        raise InputError(f"{path}: not a whole JSON array ({error}); get it again, or give JSON lines") from error


def _responses(row: Any) -> list[Response]:
    if isinstance(row, bytes):
        try:
            row = json.loads(row)
        except (ValueError, RecursionError) as error:
            raise _UnusableError("not JSON") from error
    if isinstance(row, dict):
        if "response" in row or ("prompt" in row and not any(isinstance(row.get(name), list) for name in _TURNS)):
            names = (("user", "prompt"), ("assistant", "response"))
            return _of_messages([_message(role, row.get(name), f"`{name}`") for role, name in names])
        for name, (role, content) in _TURNS.items():
            turns = row.get(name)
            if isinstance(turns, list):
                return _of_messages([_turn(turn, name, role, content) for turn in turns])
    raise _UnusableError("none of `prompt` and `response`, `messages`, `conversations`")


def _turn(turn: Any, name: str, role: str, content: str) -> Message:
    if not isinstance(turn, dict):
        raise _UnusableError(f"a turn of `{name}` that is no object")
    if role not in turn:
        role, content = "role", "content"
    named = _ROLES.get(str(turn.get(role)).lower())
    if named is None:
        raise _UnusableError(f"a turn by {turn.get(role)!r}")
    return _message(named, turn.get(content), f"a turn of `{name}`")


def _message(role: str, content: Any, where: str) -> Message:
    if isinstance(content, list):  # OpenAI's parts of a message
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        content = None if None in parts else "".join(map(str, parts))
    if not isinstance(content, str):
        raise _UnusableError(f"no text in {where}")
    if not content.strip():
        raise _UnusableError(f"empty text in {where}")
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise _UnusableError(f"half a surrogate pair in {where}") from error
    return {"role": role, "content": content}


def _of_messages(messages: list[Message]) -> list[Response]:
    """A response for every answer of a conversation."""
    first = 1 if messages and messages[0]["role"] == "system" else 0
    for number, message in enumerate(messages[first:]):
        expected = ("user", "assistant")[number % 2]
        if message["role"] != expected:
            raise _UnusableError(
                "a conversation that begins with the assistant"
                if number == 0 and message["role"] == "assistant"
                else f"two turns in a row by the {message['role']}"
            )
    answers = range(first + 1, len(messages), 2)
    if not answers:
        raise _UnusableError("a conversation without an answer")
    return [Response(messages[at - 1]["content"], messages[at]["content"], tuple(messages[: at - 1])) for at in answers]
