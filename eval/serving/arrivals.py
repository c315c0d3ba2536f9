"""When requests come: so many at a time, or at random moments at a rate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

import numpy as np

Ask = Callable[[int], Coroutine[Any, Any, None]]
"""Sends request number so-and-so and waits for its answer."""


@dataclass(frozen=True, slots=True, order=True)
class Arrivals:
    """How requests come.

    Attributes:
        kind: `closed`: a number of clients, each of which asks again once it is answered. `poisson`: a rate, whoever
            is still waiting.
        value: clients, or requests per second.
    """

    kind: Literal["closed", "poisson"]
    value: float

    @staticmethod
    def parse(text: str) -> Arrivals:
        """Read `closed:8` or `poisson:2.5`.

        Raises:
            ValueError: it is neither.
        """
        kind, _, number = text.strip().partition(":")
        value = float(number) if number.replace(".", "", 1).isdigit() else 0.0
        if kind == "closed" and value >= 1 and value == int(value):
            return Arrivals("closed", value)
        if kind == "poisson" and value > 0:
            return Arrivals("poisson", value)
        raise ValueError(
            f"arrivals {text!r} are unknown; give closed:N for N clients, or poisson:R for R requests a second"
        )

    def __str__(self) -> str:
        return f"{self.kind}:{np.format_float_positional(self.value, trim='-')}"

    async def send(self, requests: int, ask: Ask, seed: int = 0) -> None:
        """Send so many requests and wait for all answers."""
        if self.kind == "closed":
            numbers = iter(range(requests))

            async def client() -> None:
                for number in numbers:
                    await ask(number)

            await asyncio.gather(*(client() for _ in range(int(self.value))))
            return
        random, asked = Random(seed), []
        for number in range(requests):
            if number:
                await asyncio.sleep(random.expovariate(self.value))
            asked.append(asyncio.create_task(ask(number)))
        await asyncio.gather(*asked)
