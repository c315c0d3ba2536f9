"""Strict reading of JSON lines: an error names the file and the line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read the JSON objects of a file; blank lines are skipped.

    Yields:
        The place of an object (`FILE, line NUMBER`), and the object.

    Raises:
        ValueError: for a line that is no JSON object in UTF-8, or holds half of a surrogate pair, which no tokenizer
            takes.
    """
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            try:
                row = json.loads(line.decode())
                json.dumps(row, ensure_ascii=False).encode()
            except UnicodeDecodeError as error:
                raise ValueError(f"{place}: not UTF-8: {error}") from error
            except UnicodeEncodeError as error:
                raise ValueError(f"{place}: half of a surrogate pair ({error}); write whole characters") from error
            except json.JSONDecodeError as error:
                raise ValueError(f"{place}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{place}: expected a JSON object, got {type(row).__name__}")
            yield place, row
