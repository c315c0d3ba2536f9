"""A second process that answers JSON lines: requests on its stdin, answers on its stdout."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class JsonProcess:
    """Starts a process, which first writes a line of its own.

    Args:
        command: the program and its arguments.
        folder: in which it runs; by default the current one.

    Attributes:
        greeting: its first line.

    Raises:
        OSError: the program cannot be started, or ends at once.
    """

    def __init__(self, command: Sequence[str], folder: Path | None = None) -> None:
        self._process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.greeting = self._read()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            ChildProcessError: the process has ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ChildProcessError(f"it ended with status {self._process.wait()}; its messages are above")
        answer: dict[str, Any] = json.loads(line)
        return answer
