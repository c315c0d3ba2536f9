"""What a tuning has done: kept in a file, so that an interrupted one goes on where it was."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medusa_apar.heads.checkpoints.checkpoint_files import read_json

_POLL = 1.0
"""Seconds between looks at what process 0 has done."""


def is_main_process() -> bool:
    """Whether this is the only process, or the first of those of a launcher."""
    return os.environ.get("RANK", "0") == "0"


def processes() -> int:
    """How many processes a launcher has started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(slots=True)
class Progress:
    """A JSON file that process 0 writes.

    Attributes:
        path: of the file.
        planned: by name, what was decided once and stays so.
        seconds: what each stage has taken, interrupted runs of it included.
        finished: names of stages.
    """

    path: Path
    planned: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)

    @staticmethod
    def of(path: Path) -> Progress:
        """What a file says; of a new tuning where there is none."""
        progress = Progress(path)
        progress.refresh()
        return progress

    @property
    def spent(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())

    def refresh(self) -> None:
        """Read the file again."""
        if self.path.exists():
            values = read_json(self.path)
            self.planned, self.seconds, self.finished = values["planned"], values["seconds"], values["finished"]

    def plan(self, name: str, value: Any) -> None:
        """Decide something, once."""
        self.planned[name] = value
        self._write()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """While open, a stage runs; it is finished unless an error ends it."""
        start = time.perf_counter()
        try:
            yield
            self.finished.append(name)
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            self._write()

    def wait_for_stage(self, name: str) -> None:
        """Wait until process 0 has finished a stage. The launcher ends this process where that one fails."""
        while name not in self.finished:
            time.sleep(_POLL)
            self.refresh()

    def wait_for_plan(self, name: str) -> None:
        """Wait until process 0 has planned something."""
        while name not in self.planned:
            time.sleep(_POLL)
            self.refresh()

    def _write(self) -> None:
        if not is_main_process():
            return
        partial = self.path.with_suffix(".partial")
        values = {"planned": self.planned, "seconds": self.seconds, "finished": self.finished}
        partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        partial.replace(self.path)
