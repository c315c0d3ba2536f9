"""No more requests a minute than an endpoint allows."""

from __future__ import annotations

import threading
import time


class StoppedError(Exception):
    """A request that is not to be sent any more."""


class Pace:
    """Lets requests of several threads through one by one, evenly spread over a minute.

    Args:
        per_minute: how many requests a minute; None for no limit.
    """

    def __init__(self, per_minute: int | None) -> None:
        self._interval = 60 / per_minute if per_minute else 0.0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._next = 0.0

    def wait(self) -> None:
        """Wait for the turn of the next request.

        Raises:
            StoppedError: after `stop`.
        """
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._interval
        if self._stopped.wait(max(0.0, turn - time.monotonic())):
            raise StoppedError

    def stop(self) -> None:
        """Let no further request through."""
        self._stopped.set()
