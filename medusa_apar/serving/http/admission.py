"""Admission: so many answers at a time, a bounded queue, and status 429 beyond it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class QueueFullError(Exception):
    """As many requests wait as may; ask again later."""


class Admission:
    """Lets so many requests run at a time, and so many more wait for their turn.

    Args:
        running: requests that run at the same time.
        waiting: requests that wait for these.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._room = asyncio.Semaphore(running)
        self._most_waiting = waiting
        self.waiting = 0
        self.running = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it while open.

        Raises:
            QueueFullError: too many wait already.
        """
        if self._room.locked() and self.waiting >= self._most_waiting:
            raise QueueFullError
        self.waiting += 1
        try:
            await self._room.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._room.release()
