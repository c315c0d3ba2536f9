"""Answers from our own decoder: all that run share one forward pass, and one attention mask, per step.

Decoding runs in a thread of its own. Requests that sample alike are decoded together, and new ones join between two
steps; others wait until these have ended.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field, replace
from threading import Condition, Thread

import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from medusa_apar.drafting.budget import FixedBudget, MeasuredBudget, NodeBudget
from medusa_apar.drafting.drafter import Drafter
from medusa_apar.drafting.step_cost import step_cost
from medusa_apar.engine.decoder import Decoder
from medusa_apar.engine.state import Request
from medusa_apar.kv_cache.capacity import slots_that_fit
from medusa_apar.model import MedusaAparModel
from medusa_apar.runner.backbone import Backbone
from medusa_apar.sampling.randomness import root_key
from medusa_apar.sampling.sampler import TokenChooser
from medusa_apar.sampling.verification import accept_exactly
from medusa_apar.tree.paragraph_tree import ParagraphTree
from medusa_apar.tree.paragraph_tree import Thread as TreeThread

from .engine import TIMEOUT, EngineError
from .requests import AnswerRequest, Sampling
from .served_model import ServedModel
from .snapshots import Snapshot

MAX_BATCH = 16
STEPS_OF_A_BATCH = 10_000
"""Behind so many steps no request joins a batch any more: it keeps figures of all its steps."""

CLOSING = "the server is shutting down; ask again when it is back"

Kind = tuple[Sampling, int, int]
"""What the requests of a batch have in common: sampling but for the seed, depth and threads."""


@dataclass(slots=True, eq=False)
class _Job:
    """An answer between the event loop, where it is asked for, and the decoding thread."""

    request: AnswerRequest
    loop: asyncio.AbstractEventLoop
    mailbox: asyncio.Queue[Snapshot | EngineError] = field(default_factory=asyncio.Queue)
    wanted: bool = True
    cancelled: bool = False
    decoded: Request | None = None

    @property
    def kind(self) -> Kind:
        request = self.request
        return replace(request.sampling, seed=None), request.max_depth, request.max_threads

    def deliver(self, letter: Snapshot | EngineError) -> None:
        """Hand something to whoever waits in the event loop."""
        self.wanted = False
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.mailbox.put_nowait, letter)


class NativeAnswerer:
    """Writes answers with a `MedusaAparModel`, many in one batch.

    Args:
        model: the model.
        served: what its clients know of it.
        max_batch: answers that are decoded together; the others wait.
        timeout: seconds without a step after which decoding has stalled.
    """

    def __init__(
        self, model: MedusaAparModel, served: ServedModel, max_batch: int = MAX_BATCH, timeout: float = TIMEOUT
    ) -> None:
        self._model = model
        self._timeout = timeout
        self._last_step = time.monotonic()
        self._served = served
        self._waiting: deque[_Job] = deque()
        self._changed = Condition()
        self._closed = False
        self._max_batch = max_batch
        self._pools, self._slots = _pools(model, served, max_batch)
        self._thread = Thread(target=self._work, name="medusa-apar-decoder", daemon=True)
        self._thread.start()

    async def answer(self, request: AnswerRequest) -> AsyncGenerator[Snapshot]:
        """Write an answer, as `Answerer` says."""
        job = _Job(request, asyncio.get_running_loop())
        with self._changed:
            if self._closed:
                raise EngineError(CLOSING)
            self._waiting.append(job)
            self._changed.notify()
        try:
            while True:
                letter = await self._next(job)
                if isinstance(letter, EngineError):
                    raise letter
                yield letter
                if letter.finish_reason is not None:
                    return
                job.wanted = True
        finally:
            job.cancelled = True

    async def _next(self, job: _Job) -> Snapshot | EngineError:
        while True:
            try:
                return await asyncio.wait_for(job.mailbox.get(), self._timeout)
            except TimeoutError:
                if time.monotonic() - self._last_step >= self._timeout:
                    raise EngineError(f"nothing was decoded for {self._timeout:g} s; restart the server") from None

    def note_step(self) -> None:
        """Decoding goes on."""
        self._last_step = time.monotonic()

    async def check(self) -> None:
        """As `Answerer` says."""
        if not self._thread.is_alive():
            raise EngineError("the decoding thread has ended; restart the server")

    async def close(self) -> None:
        """As `Answerer` says."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        """Decode batch after batch until closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    break
                kind = self._waiting[0].kind
            self.note_step()
            batch = _Batch(self, kind)
            try:
                with torch.inference_mode(), self._model.decoding() as parts:
                    batch.decode(*parts)
            except Exception as error:  # whatever it was, the others' answers go on
                batch.fail(EngineError(f"decoding failed with {type(error).__name__}: {error}"))
        for job in self._waiting:
            job.deliver(EngineError(CLOSING))

    def take(self, kind: Kind, room: int) -> Iterator[_Job]:
        """The first waiting jobs, as long as they are of this kind and there is room."""
        with self._changed:
            while self._waiting and room and (self._waiting[0].cancelled or self._waiting[0].kind == kind):
                job = self._waiting.popleft()
                if not job.cancelled:
                    room -= 1
                    yield job

    def decoder(self, backbone: Backbone, drafter: Drafter | None, kind: Kind) -> Decoder:
        """A decoder for a batch."""
        sampling, max_depth, max_threads = kind
        return Decoder(
            backbone,
            drafter,
            self._served.control,
            chooser=TokenChooser(
                _processors(sampling),
                self._max_batch,
                self._served.control,
                sample=sampling.temperature > 0,
                device=self._model.device,
            ),
            acceptance=accept_exactly,
            budget=_budget(backbone, drafter),
            fork=self._served.control is not None and max_depth > 1,
            eos_token_ids=self._served.eos_token_ids,
            max_threads=max_threads,
            max_depth=max_depth,
            pools=self._pools,
            max_slots=self._slots,
            context_length=self._served.context_length,
        )

    def request_of(self, job: _Job, row: int) -> Request:
        """A job as the decoder takes it."""
        asked, control = job.request, self._served.control
        prompt = list(asked.prompt_token_ids)
        tree = ParagraphTree(
            [TreeThread(list(prompt), len(prompt), len(prompt))],
            control.fork_token_id if control else None,
            control.child_token_id if control else None,
            asked.max_depth,
        )
        seed = asked.sampling.seed
        if seed is None:
            seed = int(torch.randint(2**62, (1,)))
        return Request(row, prompt, asked.max_new_tokens, tree, root_key(seed, prompt, copy=0))

    @property
    def closing(self) -> bool:
        """Whether answers are to end now."""
        return self._closed

    @property
    def max_batch(self) -> int:
        """Answers that are decoded together."""
        return self._max_batch


class _Batch:
    """Requests of one kind while they are decoded together."""

    def __init__(self, answerer: NativeAnswerer, kind: Kind) -> None:
        self._answerer = answerer
        self._kind = kind
        self._jobs: dict[int, _Job] = {}

    def decode(self, backbone: Backbone, drafter: Drafter | None) -> None:
        """Decode until no request is left."""
        decoder = self._answerer.decoder(backbone, drafter, self._kind)

        def arrivals() -> list[Request]:
            self._deliver()
            closed = self._answerer.closing or decoder.stats.steps > STEPS_OF_A_BATCH
            return [] if closed else self._let_in()

        decoder.decode((), arrivals)

    def fail(self, error: EngineError) -> None:
        """End all answers of the batch; those that it was begun for, if it has let none in yet."""
        for job in self._jobs.values() or [*self._answerer.take(self._kind, self._answerer.max_batch)]:
            job.deliver(error)

    def _deliver(self) -> None:
        """Hand out what was written, and end what was cancelled."""
        self._answerer.note_step()
        for row, job in list(self._jobs.items()):
            request = job.decoded
            assert request is not None
            if self._answerer.closing:
                job.deliver(EngineError(CLOSING))
            if job.cancelled or self._answerer.closing:
                request.limit = 0  # which ends every thread behind the next step
            if not request.live:
                job.deliver(Snapshot.of(request.tree, request.limit))
                del self._jobs[row]
            elif job.wanted:
                job.deliver(Snapshot.of(request.tree, request.limit))

    def _let_in(self) -> list[Request]:
        """Requests that join the batch now."""
        arrived = []
        free = [row for row in range(self._answerer.max_batch) if row not in self._jobs]
        for row, job in zip(free, self._answerer.take(self._kind, len(free)), strict=False):
            job.decoded = self._answerer.request_of(job, row)
            self._jobs[row] = job
            arrived.append(job.decoded)
        return arrived


def _pools(model: MedusaAparModel, served: ServedModel, max_batch: int) -> tuple[int, int]:
    """KV pools, and the slots of all of them: a pool for each answer where all of them hold a longest path."""
    heads = 0 if model.heads is None else model.heads.config.num_heads
    longest = served.context_length + served.max_depth + heads + 2
    slots = slots_that_fit(model.backbone)
    if slots < longest:
        raise ValueError(
            f"the device has memory for {slots} KV slots, and one answer may need {longest}; "
            "free some, or serve a model with a shorter context"
        )
    with model.decoding() as (backbone, _):
        separate = backbone.separates_pools and slots >= longest * max_batch
    return (max_batch if separate else 1), slots


def _processors(sampling: Sampling) -> LogitsProcessorList:
    """What transformers makes of such a generation config, in its order."""
    processors = LogitsProcessorList()
    if sampling.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature > 0:
        if sampling.temperature != 1.0:
            processors.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            processors.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            processors.append(TopPLogitsWarper(sampling.top_p))
    return processors


def _budget(backbone: Backbone, drafter: Drafter | None) -> NodeBudget:
    if drafter is None:
        return FixedBudget()
    return MeasuredBudget(step_cost(backbone, drafter))
