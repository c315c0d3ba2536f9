"""Rows as a file of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..command_line import InputError


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows, a line each.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        raise InputError(f"--output {path}: {error}; run the same command again once it can be written") from error
