"""Load and faults on a running server: what it answers, what it refuses, and whether anything is lost.

    medusa-apar serve --weights int8 --max-waiting 2000 &
    python -m benchmarks.soak http://127.0.0.1:8000 --burst 1000 --seconds 1800

First as many requests as `--burst` at once; then, for so many seconds, clients that ask with any sampling beside others
that leave, read slowly, half-close their connection, do not end their request, or send noise. Every seeded request has
to be answered alike whenever it is asked, which bfloat16 cannot, and float32 not quite where a draw is within rounding.
At the end nothing may run, wait, or hold a KV slot.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from statistics import quantiles
from typing import Any
from urllib.parse import urlsplit

import httpx2

from medusa_apar.argument_types import ArgumentParser, not_negative, positive
from medusa_apar.eval.measurement.question_sets import load_questions

REQUESTS = 48
"""Different ones."""
IDLE = (
    "medusa_apar_requests_running",
    "medusa_apar_requests_waiting",
    "medusa_apar_threads",
    'medusa_apar_kv_slots{state="running"}',
)
"""Figures that are 0 when nothing runs."""
SAMPLINGS: Sequence[dict[str, Any]] = (
    {"temperature": 0},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.2, "top_k": 20},
    {"temperature": 0.3, "presence_penalty": 1.0, "frequency_penalty": 0.5},
    {"temperature": 1.0, "logit_bias": {"5": -100}},
    {"temperature": 0, "repetition_penalty": 1.2, "logprobs": True, "top_logprobs": 2},
    {"temperature": 0.8, "n": 2},
    {"temperature": 0, "apar": False},
)


@dataclass(slots=True)
class Soak:
    """One run.

    Attributes:
        url: of the server.
        requests: bodies that are asked again and again.
        outcomes: how each kind of client fared.
        texts: what was answered first, by the number of the request.
        failures: what must not happen.
        seconds: of whole answers.
        tokens: of whole answers together.
    """

    url: str
    requests: Sequence[dict[str, Any]]
    outcomes: Counter[str] = field(default_factory=Counter)
    texts: dict[int, list[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    tokens: int = 0

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 80

    async def ask(self, client: httpx2.AsyncClient, random: Random) -> None:
        """A request whose answer is compared with earlier ones."""
        number = random.randrange(len(self.requests))
        start = time.perf_counter()
        response = await client.post(f"{self.url}/v1/chat/completions", json=self.requests[number])
        self.outcomes[f"asked: {response.status_code}"] += 1
        if response.status_code == 429:
            await asyncio.sleep(random.random())
        elif response.status_code != 200:
            self.failures.append(f"request {number}: {response.status_code} {response.text[:200]}")
        else:
            self.seconds.append(time.perf_counter() - start)
            answer = response.json()
            self.tokens += answer["usage"]["completion_tokens"]
            texts = [choice["message"]["content"] for choice in answer["choices"]]
            if self.texts.setdefault(number, texts) != texts:
                self.failures.append(f"request {number} was answered in two ways")

    async def leave(self, client: httpx2.AsyncClient, random: Random) -> None:
        """A stream that is left after some chunks."""
        body = {**random.choice(self.requests), "stream": True, "max_tokens": 200}
        left = random.randint(0, 20)
        async with client.stream("POST", f"{self.url}/v1/chat/completions", json=body) as response:
            async for _ in response.aiter_lines():
                left -= 1
                if left < 0:
                    break
        self.outcomes[f"left a stream: {response.status_code}"] += 1

    async def read_slowly(self, _: httpx2.AsyncClient, random: Random) -> None:
        """A stream that is read a few bytes at a time, every half second."""
        reader, writer = await asyncio.open_connection(*self.address, limit=64)
        body = json.dumps({**random.choice(self.requests), "stream": True}).encode()
        writer.write(self._head(len(body)) + body)
        for _part in range(random.randint(1, 20)):
            if not await reader.read(random.randint(1, 200)):
                break
            await asyncio.sleep(0.5)
        writer.close()
        self.outcomes["read slowly"] += 1

    async def half_close(self, _: httpx2.AsyncClient, random: Random) -> None:
        """A request after which the client closes its side, and reads on."""
        reader, writer = await asyncio.open_connection(*self.address)
        body = json.dumps(random.choice(self.requests)).encode()
        writer.write(self._head(len(body)) + body)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 120)
        writer.close()
        self.outcomes[f"half-closed: {self._status(answer)}"] += 1

    async def never_end(self, _: httpx2.AsyncClient, random: Random) -> None:
        """Headers or a body that stop in the middle."""
        reader, writer = await asyncio.open_connection(*self.address)
        whole = self._head(1000) + b'{"messages": [' + b" " * 500
        writer.write(whole[: random.randint(1, len(whole) - 1)])
        answer = b""
        with suppress(TimeoutError):
            answer = await asyncio.wait_for(reader.read(), random.uniform(1, 20))
        writer.close()
        self.outcomes[f"never ended: {self._status(answer)}"] += 1

    async def send_noise(self, client: httpx2.AsyncClient, random: Random) -> None:
        """Bytes, headers and bodies of every size."""
        kind = random.choice(["bytes", "header", "body", "json"])
        if kind == "bytes":
            reader, writer = await asyncio.open_connection(*self.address)
            writer.write(random.randbytes(random.choice([1, 100, 10_000])) + b"\r\n\r\n")
            answer = b""
            with suppress(TimeoutError, ConnectionError):
                answer = await asyncio.wait_for(reader.read(), 10)
            writer.close()
            self.outcomes[f"noise, bytes: {self._status(answer)}"] += 1
            return
        size = random.choice([0, 1, 1000, 60_000, 2**20, 3 * 2**20])
        path = random.choice(
            ["/v1/chat/completions", "/v1/completions", "/threads", "/tokenize", "/v1/models", "/nothing"]
        )
        headers = {"x-noise": "n" * min(size, 200_000)} if kind == "header" else {}
        content = random.randbytes(size) if kind == "body" else json.dumps({"prompt": "a" * size}).encode()
        with suppress(httpx2.TransportError):
            response = await client.post(f"{self.url}{path}", content=content, headers=headers)
            self.outcomes[f"noise, {kind}: {response.status_code}"] += 1
            if response.status_code >= 500:
                self.failures.append(f"{kind} of {size} to {path}: {response.status_code} {response.text[:200]}")
            return
        self.outcomes[f"noise, {kind}: closed"] += 1

    def _head(self, length: int) -> bytes:
        lines = (
            "POST /v1/chat/completions HTTP/1.1",
            "Host: soak",
            "Content-Type: application/json",
            f"Content-Length: {length}",
        )
        return "\r\n".join([*lines, "", ""]).encode()

    def _status(self, answer: bytes) -> str:
        found = re.match(rb"HTTP/1\.1 (\d+)", answer)
        if found and found[1].startswith(b"5"):
            self.failures.append(answer[:300].decode(errors="replace"))
        return found[1].decode() if found else "closed" if not answer else "other"

    async def metrics(self, client: httpx2.AsyncClient) -> dict[str, float]:
        """The server's figures."""
        lines = (await client.get(f"{self.url}/metrics")).text.splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name[:1] != "#"}

    async def watch(self, client: httpx2.AsyncClient) -> None:
        """Ask for the server's health, again and again."""
        while True:
            start = time.perf_counter()
            status = (await client.get(f"{self.url}/health")).status_code
            if status != 200:
                self.failures.append(f"health: {status}")
            if (seconds := time.perf_counter() - start) > 10:
                self.failures.append(f"health took {seconds:.0f} s")
            await asyncio.sleep(1)

    async def repeat(
        self, what: Callable[..., Awaitable[None]], client: httpx2.AsyncClient, seed: int, end: float
    ) -> None:
        """Be one kind of client until the end."""
        random = Random(seed)
        while time.monotonic() < end:
            await asyncio.sleep(random.random() / 2)
            try:
                await what(client, random)
            except (OSError, httpx2.TransportError, TimeoutError) as error:
                self.failures.append(f"{what.__name__}: {type(error).__name__} {error}")

    async def run(self, burst: int, seconds: float, clients: int) -> None:
        """The burst, and then the soak."""
        limits = httpx2.Limits(max_connections=burst + 10 * clients)
        async with httpx2.AsyncClient(timeout=3600, limits=limits) as client:
            await self.ask(client, Random(0))  # what is measured or compiled at the first request
            before, start, tokens = await self.metrics(client), time.perf_counter(), self.tokens
            watching = asyncio.create_task(self.watch(client))
            await asyncio.gather(*(self.ask(client, Random(number)) for number in range(burst)))
            self._report(f"{burst} at once", start, tokens)
            faults = (self.leave, self.read_slowly, self.half_close, self.never_end, self.send_noise)
            kinds = [self.ask] * clients + [*faults] * max(1, clients // 8)
            start, tokens, end = time.perf_counter(), self.tokens, time.monotonic() + seconds
            await asyncio.gather(*(self.repeat(kind, client, seed, end) for seed, kind in enumerate(kinds)))
            self._report("soak", start, tokens)
            watching.cancel()
            await self._idle(client, before)

    def _report(self, name: str, start: float, tokens: int) -> None:
        seconds = time.perf_counter() - start
        print(f"{name}: {seconds:.0f} s, {(self.tokens - tokens) / seconds:.1f} tokens/s in whole answers", flush=True)

    async def _idle(self, client: httpx2.AsyncClient, before: dict[str, float]) -> None:
        now, end = await self.metrics(client), time.monotonic() + 60
        while any(now.get(name) for name in IDLE) and time.monotonic() < end:
            await asyncio.sleep(0.5)
            now = await self.metrics(client)
        self.failures += [f"{name} is {now[name]:g} at the end" for name in IDLE if now.get(name)]
        resident = "process_resident_memory_bytes"
        print(f"memory: {before[resident] / 2**20:.0f} MiB before, {now[resident] / 2**20:.0f} MiB after")


def requests_of(questions: str) -> list[dict[str, Any]]:
    """Bodies of any sampling, with seeds."""
    turns = [question.turns[0] for question in load_questions(questions)]
    return [
        {"messages": [{"role": "user", "content": turns[number % len(turns)]}], "seed": number}
        | {"max_tokens": 8 + 7 * (number % 9)}
        | SAMPLINGS[number % len(SAMPLINGS)]
        for number in range(REQUESTS)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Print what happened; 1 where something did that must not."""
    parser = ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("url", help="of the server, without /v1")
    parser.add_argument("--questions", default="lists", help="a set, or a file in FastChat's format")
    parser.add_argument("--burst", type=not_negative, default=0, help="requests at once")
    parser.add_argument("--seconds", type=not_negative, default=60, help="of the soak")
    parser.add_argument("--clients", type=positive, default=16, help="that ask; an eighth as many of each faulty kind")
    arguments = parser.parse_args(argv)
    soak = Soak(arguments.url.rstrip("/"), requests_of(arguments.questions))
    asyncio.run(soak.run(arguments.burst, arguments.seconds, arguments.clients))
    for name, count in sorted(soak.outcomes.items()):
        print(f"{count:7,} {name}")
    if len(soak.seconds) > 1:
        cuts = quantiles(soak.seconds, n=100)
        print(f"seconds of an answer: median {cuts[49]:.1f}, 99th percentile {cuts[98]:.1f}")
    print(f"{len(soak.failures)} failures", *soak.failures[:20], sep="\n")
    return bool(soak.failures)


if __name__ == "__main__":
    sys.exit(main())
