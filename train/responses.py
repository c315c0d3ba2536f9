"""Reading training responses: JSON lines of `{"prompt": ..., "response": ...}`, plain or .xz or .gz."""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from .command import InputError


@dataclass(frozen=True, slots=True)
class Response:
    """One prompt and one answer to it."""

    prompt: str
    response: str


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


_OPENERS: dict[str, Callable[..., IO[Any]]] = {".xz": lzma.open, ".gz": gzip.open}


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield a file's lines; .xz and .gz are unpacked on the way.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if a packed file is cut off or is not what its name says.
    """
    try:
        with _OPENERS.get(path.suffix, open)(path, "rb") as lines:
            yield from lines
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: not a whole {path.suffix} file ({error}); get it again") from error


def read_responses(path: str | Path, bad_rows: BadRows) -> Iterator[Response]:
    """Yield the usable rows of a file; the others are counted in `bad_rows`.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if a packed file is cut off or is not what its name says.
    """
    path = Path(path)
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path.name}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            bad_rows.add("not JSON", where)
            continue
        prompt, response = (row.get("prompt"), row.get("response")) if isinstance(row, dict) else (None, None)
        if not isinstance(prompt, str) or not isinstance(response, str):
            bad_rows.add("no text under `prompt` and `response`", where)
        elif not prompt.strip() or not response.strip():
            bad_rows.add("empty `prompt` or `response`", where)
        elif not (_is_unicode(prompt) and _is_unicode(response)):
            bad_rows.add("half a surrogate pair in `prompt` or `response`", where)
        else:
            yield Response(prompt, response)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
