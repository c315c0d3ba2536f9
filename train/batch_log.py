"""A log of batches as JSON lines: what an interrupted run has made is not made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .command_line import InputError


class BatchLog:
    """Batches in the order in which they were made, a line each; a line that an interruption cut off is removed.

    Args:
        path: of the file; it is made with the first batch.

    Raises:
        InputError: a line is not a JSON object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.batches: list[dict[str, Any]] = []
        if not path.exists():
            return
        size = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                self.batches.append(self._parsed(line, number))
                size += len(line)
        with path.open("r+b") as file:
            file.truncate(size)

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            batch = json.loads(line)
        except ValueError as error:
            raise InputError(f"{self.path}:{number}: not JSON ({error}); remove the file, or choose another") from error
        if not isinstance(batch, dict):
            raise InputError(f"{self.path}:{number}: not a JSON object; remove the file, or choose another")
        return batch

    def add(self, batch: dict[str, Any]) -> None:
        """Append a batch.

        Raises:
            InputError: the file cannot be written.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(batch, ensure_ascii=False) + "\n")
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be written ({error}); run the same command again once it can, and it goes on "
                "after the batches that the file holds"
            ) from error
        self.batches.append(batch)
