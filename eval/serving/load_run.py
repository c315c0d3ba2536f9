"""Loads on an engine: every kind of arrivals in both modes, in turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from tqdm.auto import tqdm

from medusa_apar.modes import Mode
from medusa_apar.serving.engines.text_engine import EngineError
from medusa_apar.serving.requests import AnswerRequest
from medusa_apar.serving.snapshots import Answerer

from ..measurement.records import Record
from ..measurement.rotation import rotated
from ..measurement.store import RecordStore
from .arrivals import Arrivals

MODES = (str(Mode.AR), str(Mode.APAR))
LoadKey = tuple[int, str, str, int]

_USAGE_SECONDS = 0.1
_MEMORY_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRecord(Record):
    """One load in one mode.

    Attributes:
        kv_blocks: of the engine.
        arrivals: as `Arrivals` prints itself.
        mode: `ar` or `apar`.
        round: counted from 1.
        seconds: from the first request to the last answer.
        tokens: visible tokens of each answer.
        threads: of each answer.
        latencies: seconds until each answer was complete.
        first_tokens: seconds until there was something to read of it.
        kv_usage: share of the blocks in use, every tenth of a second.
        prefix_hit_rate: of the tokens of all contexts, those that were found in the prefix cache.
        errors: what failed.
        memory_mib: of the engine and this process, every five seconds.
        requests_left: that the engine still has once all answers are complete.
    """

    measured: ClassVar[str] = "a load"

    kv_blocks: int
    arrivals: str
    mode: str
    round: int
    seconds: float
    tokens: list[int]
    threads: list[int]
    latencies: list[float]
    first_tokens: list[float]
    kv_usage: list[float]
    prefix_hit_rate: float | None
    errors: list[str]
    memory_mib: list[float]
    requests_left: int

    @property
    def key(self) -> LoadKey:
        return self.kv_blocks, self.arrivals, self.mode, self.round

    @property
    def tokens_per_second(self) -> float:
        """Of all answers together."""
        return sum(self.tokens) / self.seconds


class LoadStore(RecordStore[LoadKey, LoadRecord]):
    """Finished loads in a folder: `loads.jsonl` and `settings.json`."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        super().__init__(folder / "loads.jsonl", settings, LoadRecord)


class Gauges(Protocol):
    """What an engine tells of itself."""

    def kv_usage(self) -> float:
        """Share of the KV blocks in use."""

    def prefix_tokens(self) -> tuple[float, float]:
        """Tokens of contexts so far, and those of them that the prefix cache held."""

    def memory_mib(self) -> float:
        """Memory of the engine and this process."""

    def requests_left(self) -> int:
        """Requests that the engine has."""

    async def forget_prefixes(self) -> None:
        """Empty the prefix cache."""


@dataclass(frozen=True, slots=True)
class LoadRun:
    """Sends the same requests under every load, in every mode.

    The modes alternate, and which of them begins does too, so that a drifting machine slows all alike.

    Attributes:
        requests: what is asked, with forks; each load sends so many, from the first on.
        arrivals: the loads.
        rounds: how often each is measured.
        modes: of `MODES`.
    """

    requests: Sequence[AnswerRequest]
    arrivals: Sequence[Arrivals]
    rounds: int
    modes: Sequence[str] = MODES

    def missing(self, store: LoadStore, kv_blocks: int) -> list[tuple[Arrivals, str, int]]:
        """The loads that the store lacks of those on an engine with so many blocks, in the order to measure them."""
        wanted = [
            (arrivals, mode, number)
            for number in range(1, self.rounds + 1)
            for place, arrivals in enumerate(self.arrivals)
            for mode in rotated(self.modes, number + place)
        ]
        return [each for each in wanted if (kv_blocks, str(each[0]), each[1], each[2]) not in store]

    async def run(self, store: LoadStore, kv_blocks: int, answerer: Answerer, gauges: Gauges) -> None:
        """Measure what the store lacks on one engine.

        Raises:
            EngineError: not one request of a load was answered; that load is not kept.
        """
        missing = self.missing(store, kv_blocks)
        if missing:
            few = min(2, len(self.requests))
            await self._load(answerer, gauges, Arrivals("closed", 2), str(Mode.APAR), 0, kv_blocks, requests=few)
        for arrivals, mode, number in tqdm(missing, desc=f"{kv_blocks} blocks", unit="load"):
            record = await self._load(answerer, gauges, arrivals, mode, number, kv_blocks, len(self.requests))
            if not record.latencies:
                raise EngineError(
                    f"{arrivals} in mode {mode} on {kv_blocks} blocks: no request was answered ({record.errors[0]})"
                )
            store.add(record)

    async def _load(
        self,
        answerer: Answerer,
        gauges: Gauges,
        arrivals: Arrivals,
        mode: str,
        number: int,
        kv_blocks: int,
        requests: int,
    ) -> LoadRecord:
        await gauges.forget_prefixes()
        queries, hits = gauges.prefix_tokens()
        answers = _Answers(answerer, self._requests_of(mode))
        usage: list[float] = []
        memory: list[float] = []
        watching = (
            asyncio.create_task(_watch(gauges.kv_usage, usage, _USAGE_SECONDS)),
            asyncio.create_task(_watch(gauges.memory_mib, memory, _MEMORY_SECONDS)),
        )
        start = time.perf_counter()
        try:
            await arrivals.send(requests, answers.ask, seed=number)
        finally:
            seconds = time.perf_counter() - start
            for task in watching:
                task.cancel()
        queries, hits = (after - before for after, before in zip(gauges.prefix_tokens(), (queries, hits), strict=True))
        return LoadRecord(
            kv_blocks=kv_blocks,
            arrivals=str(arrivals),
            mode=mode,
            round=number,
            seconds=seconds,
            tokens=answers.tokens,
            threads=answers.threads,
            latencies=answers.latencies,
            first_tokens=answers.first_tokens,
            kv_usage=usage,
            prefix_hit_rate=hits / queries if queries else None,
            errors=answers.errors,
            memory_mib=memory,
            requests_left=gauges.requests_left(),
        )

    def _requests_of(self, mode: str) -> list[AnswerRequest]:
        if mode == Mode.APAR:
            return list(self.requests)
        return [replace(request, max_depth=1) for request in self.requests]


class _Answers:
    """What became of the requests of one load."""

    def __init__(self, answerer: Answerer, requests: Sequence[AnswerRequest]) -> None:
        self._answerer = answerer
        self._requests = requests
        self.tokens: list[int] = []
        self.threads: list[int] = []
        self.latencies: list[float] = []
        self.first_tokens: list[float] = []
        self.errors: list[str] = []

    async def ask(self, number: int) -> None:
        start = time.perf_counter()
        first: float | None = None
        try:
            async with aclosing(self._answerer.answer(self._requests[number])) as snapshots:
                async for snapshot in snapshots:
                    if first is None and snapshot.readable:
                        first = time.perf_counter() - start
        except EngineError as error:
            self.errors.append(str(error))
            return
        self.latencies.append(time.perf_counter() - start)
        self.first_tokens.append(self.latencies[-1] if first is None else first)
        self.tokens.append(snapshot.tokens)
        self.threads.append(snapshot.threads)


async def _watch(figure: Callable[[], float], kept: list[float], seconds: float) -> None:
    while True:
        kept.append(figure())
        await asyncio.sleep(seconds)
