"""A line of a file of JSON lines."""

from __future__ import annotations

import json
from typing import Any


def parse_line(line: bytes) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
        ValueError: if it is not a JSON object, or holds half of a surrogate pair, which no tokenizer takes.
    """
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, got {type(row).__name__}")
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half of a surrogate pair ({error}); write whole characters") from error
    return row
