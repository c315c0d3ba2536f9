"""Turns, a queue that ends, and who is refused."""

from __future__ import annotations

import asyncio

import pytest

from medusa_apar.serving.http.admission import Admission, QueueFullError


def test_so_many_run_so_many_wait_and_the_next_is_refused() -> None:
    async def run() -> None:
        admission, gate = Admission(running=2, waiting=1), asyncio.Event()

        async def visit() -> None:
            async with admission.turn():
                await gate.wait()

        visits = [asyncio.create_task(visit()) for _ in range(3)]
        await asyncio.sleep(0)
        assert (admission.running, admission.waiting) == (2, 1)
        with pytest.raises(QueueFullError):
            await visit()
        gate.set()
        await asyncio.gather(*visits)
        assert (admission.running, admission.waiting) == (0, 0)
        await visit()

    asyncio.run(run())


def test_whoever_leaves_the_queue_makes_room() -> None:
    async def run() -> None:
        admission = Admission(running=1, waiting=1)
        async with admission.turn():
            waiting = asyncio.create_task(admission.turn().__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert admission.waiting == 0
        async with admission.turn():
            assert admission.running == 1

    asyncio.run(run())
