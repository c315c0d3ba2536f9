"""Rows of a file or a saved dataset: how it is packed, and in which encoding."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from datasets import Dataset, load_from_disk

from ..command_line import InputError
from .json_rows import UNDECODED, json_rows

_OPENERS: dict[str, Callable[..., IO[Any]]] = {".xz": lzma.open, ".gz": gzip.open}
_CHUNK = 2**15
"""Bytes that are read at a time."""

_ERRORS = "medusa_apar.undecoded"
codecs.register_error(_ERRORS, lambda error: (UNDECODED, error.end))  # type: ignore[attr-defined]


def read_rows(path: Path) -> Iterator[tuple[Any, str]]:
    """Yield the rows of a file or a saved dataset, and the place of each.

    A file holds JSON lines, a JSON array, or objects one after the other, each on as many lines as it likes, in UTF-8,
    UTF-16 or UTF-32, with or without a byte-order mark; its name may end with .xz or .gz. Its content alone says which.

    Yields:
        A row, or a `BadRowError` that says why it is not a row; and its place: `file:line`, `file:line:column` where
        it begins inside a line, or `folder:number` in a dataset, all from 1.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: a packed file is cut off, or a file or folder cannot be read at all.
    """
    if path.is_dir():
        rows = enumerate(_saved_dataset(path), start=1)
        return ((row, f"{path.name}:{number}") for number, row in rows)
    return json_rows(_text(path), path.name)


def _text(path: Path) -> Iterator[str]:
    """The text of a file in chunks; every line ends with a line feed."""
    try:
        with _OPENERS.get(path.suffix.lower(), open)(path, "rb") as file:
            chunk = file.read(_CHUNK)
            decoder = codecs.getincrementaldecoder(json.detect_encoding(chunk))(_ERRORS)
            lines = io.IncrementalNewlineDecoder(decoder, translate=True)
            while chunk:
                yield lines.decode(chunk)
                chunk = file.read(_CHUNK)
            yield lines.decode(b"", final=True)
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: not a whole {path.suffix} file ({error}); get it again") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _saved_dataset(folder: Path) -> Iterable[Any]:
    try:
        dataset = load_from_disk(str(folder))
    except IndexError:  # of a dataset without rows, which `datasets` saves as no file at all
        return ()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}: no dataset that `datasets` has saved ({error}); give a file of JSON lines"
        ) from error
    if not isinstance(dataset, Dataset):
        raise InputError(f"{folder}: holds the splits {', '.join(dataset)}; give the folder of one of them")
    rows: Iterable[Any] = dataset.with_format(None)
    return rows
