"""Loads on an engine: every kind of arrivals in both modes, in turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from tqdm.auto import tqdm

from medusa_apar.modes import Mode
from medusa_apar.serving.engines.text_engine import EngineError
from medusa_apar.serving.requests import AnswerRequest
from medusa_apar.serving.snapshots import Answerer

from ..measurement.store import Record, RecordStore, rotated
from .arrivals import Arrivals

if TYPE_CHECKING:
    from .vllm_gauges import VllmGauges

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

    measured: ClassVar[str] = "loads"

    kv_blocks: int
    arrivals: str
    mode: str
    round: int
    seconds: float = 0.0
    tokens: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)
    kv_usage: list[float] = field(default_factory=list)
    prefix_hit_rate: float | None = None
    errors: list[str] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)
    requests_left: int = 0

    @property
    def key(self) -> LoadKey:
        return self.kv_blocks, self.arrivals, self.mode, self.round


class LoadStore(RecordStore[LoadKey, LoadRecord]):
    """Finished loads in a folder."""

    record_type = LoadRecord


@dataclass(frozen=True, slots=True)
class LoadRun:
    """Sends the same requests under every load, in every mode.

    The modes alternate, and which of them begins does too, so that a drifting machine slows all alike.

    Attributes:
        requests: what is asked, with forks; each load sends all of them.
        arrivals: the loads.
        rounds: how often each is measured.
        modes: of `MODES`.
    """

    requests: Sequence[AnswerRequest]
    arrivals: Sequence[Arrivals]
    rounds: int
    modes: Sequence[str] = MODES

    def missing(self, store: LoadStore, kv_blocks: int) -> list[LoadKey]:
        """The loads that the store lacks of those on an engine with so many blocks, in the order to measure them."""
        wanted = [
            (kv_blocks, str(arrivals), mode, number)
            for number in range(1, self.rounds + 1)
            for place, arrivals in enumerate(self.arrivals)
            for mode in rotated(self.modes, number + place)
        ]
        return [key for key in wanted if key not in store]

    async def run(self, store: LoadStore, kv_blocks: int, answerer: Answerer, gauges: VllmGauges) -> None:
        """Measure what the store lacks on one engine.

        Raises:
            EngineError: not one request of a load was answered; that load is not kept.
        """
        missing = self.missing(store, kv_blocks)
        if missing:
            await _load((kv_blocks, "closed:2", str(Mode.APAR), 0), self.requests[:2], answerer, gauges)
        for key in tqdm(missing, desc=f"{kv_blocks} blocks", unit="load"):
            record = await _load(key, self.requests, answerer, gauges)
            if not record.latencies:
                raise EngineError(
                    f"{record.arrivals} in mode {record.mode} on {kv_blocks} blocks: no request was answered "
                    f"({record.errors[0]})"
                )
            store.add(record)


async def _load(key: LoadKey, requests: Sequence[AnswerRequest], answerer: Answerer, gauges: VllmGauges) -> LoadRecord:
    kv_blocks, arrivals, mode, number = key
    record = LoadRecord(kv_blocks=kv_blocks, arrivals=arrivals, mode=mode, round=number)
    if mode == Mode.AR:
        requests = [replace(request, max_depth=1) for request in requests]
    await gauges.forget_prefixes()
    before = gauges.prefix_tokens()
    watching = (
        asyncio.create_task(_watch(gauges.kv_usage, record.kv_usage, _USAGE_SECONDS)),
        asyncio.create_task(_watch(gauges.memory_mib, record.memory_mib, _MEMORY_SECONDS)),
    )
    start = time.perf_counter()
    try:
        await Arrivals.parse(arrivals).send(len(requests), lambda at: _ask(answerer, requests[at], record), seed=number)
    finally:
        seconds = time.perf_counter() - start
        for task in watching:
            task.cancel()
    queries, hits = (now - earlier for now, earlier in zip(gauges.prefix_tokens(), before, strict=True))
    return replace(
        record,
        seconds=seconds,
        prefix_hit_rate=hits / queries if queries else None,
        requests_left=gauges.requests_left(),
    )


async def _ask(answerer: Answerer, request: AnswerRequest, record: LoadRecord) -> None:
    """Wait for an answer, and note in the record what became of it."""
    start = time.perf_counter()
    first: float | None = None
    try:
        async with aclosing(answerer.answer(request)) as snapshots:
            async for snapshot in snapshots:
                if first is None and snapshot.readable:
                    first = time.perf_counter() - start
    except EngineError as error:
        record.errors.append(str(error))
        return
    record.latencies.append(time.perf_counter() - start)
    record.first_tokens.append(record.latencies[-1] if first is None else first)
    record.tokens.append(snapshot.tokens)
    record.threads.append(snapshot.threads)


async def _watch(figure: Callable[[], float], kept: list[float], seconds: float) -> None:
    while True:
        kept.append(figure())
        await asyncio.sleep(seconds)
