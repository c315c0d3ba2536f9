"""Answers from our own engine: all that run share one forward pass, and one attention mask, per step.

Decoding runs in a thread of its own. Requests of any sampling join between two steps.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from threading import Condition, Thread

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from medusa_apar.drafters.drafter import Drafter
from medusa_apar.drafting.ngrams import NgramDrafter
from medusa_apar.drafting.step_cost import measured_budget
from medusa_apar.engine.engine import Engine
from medusa_apar.engine.pools import PoolPlan
from medusa_apar.engine.state import Request
from medusa_apar.kv_cache.prefix_cache import PrefixCachingPool
from medusa_apar.kv_cache.slot_pool import SlotPool
from medusa_apar.model import MedusaAparModel
from medusa_apar.runner.model_runner import ModelRunner
from medusa_apar.sampling.grammar import GrammarProcessor
from medusa_apar.sampling.logprobs import LogprobsRecorder
from medusa_apar.sampling.openai_processors import AnswerPenalty, TokenBias
from medusa_apar.sampling.randomness import root_key
from medusa_apar.sampling.sampler import Sampler
from medusa_apar.tree.paragraph_tree import ParagraphTree

from ..requests import AnswerRequest, Sampling
from ..served_model import ServedModel
from ..snapshots import Snapshot
from .text_engine import TIMEOUT, EngineError

MAX_BATCH = 16
"""Answers that are decoded together."""

_MOST_SAMPLERS = 256
"""Different samplings that are remembered."""
CLOSING = "the server is shutting down; ask again when it is back"


@dataclass(slots=True, eq=False)
class _Job:
    """An answer between the event loop, where it is asked for, and the decoding thread."""

    asked: AnswerRequest
    loop: asyncio.AbstractEventLoop
    mailbox: asyncio.Queue[Snapshot | EngineError] = field(default_factory=asyncio.Queue)
    logprobs: LogprobsRecorder | None = None
    wanted: bool = True
    cancelled: bool = False

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
        prefix_caching: whether keys and values are kept for prompts that begin like earlier ones.

    Raises:
        ValueError: the device has no room for the longest answer.
    """

    sees_scores = True

    def __init__(
        self,
        model: MedusaAparModel,
        served: ServedModel,
        max_batch: int = MAX_BATCH,
        timeout: float = TIMEOUT,
        *,
        prefix_caching: bool = True,
    ) -> None:
        self._model = model
        self._timeout = timeout
        self._last_step = time.monotonic()
        self._served = served
        self._waiting: deque[_Job] = deque()
        self._changed = Condition()
        self._closed = False
        self._max_batch = max_batch
        self._pool_kind = PrefixCachingPool if prefix_caching else SlotPool
        self._slots = self._slots_for_an_answer()
        self._pools: list[SlotPool] = []
        self._pools_of: ModelRunner | None = None
        self._count_slots()
        self._samplers: dict[tuple[Sampling, int], Sampler] = {}
        self._running: dict[Request, _Job] = {}
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

    def kv_slots(self) -> dict[str, int]:
        """As `Answerer` says."""
        return self._kv_slots

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
        """Decode whenever something is asked for, until closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    break
            self._last_step = time.monotonic()
            try:
                with torch.inference_mode(), self._model.decoding() as (runner, drafter):
                    self._decode(self._engine(runner, drafter))
            except Exception as error:  # engine and pools are made anew for later answers
                self._pools, self._pools_of = [], None
                self._count_slots()
                self._fail(EngineError(f"decoding failed with {type(error).__name__}: {error}"))
        for job in self._waiting:
            job.deliver(EngineError(CLOSING))

    def _decode(self, engine: Engine) -> None:
        """Step until nothing runs or waits."""
        try:
            while not self._closed:
                self._cancel(engine)
                self._admit(engine)
                if not engine.busy:
                    return
                for request in engine.step():
                    self._deliver(request)
                engine.metrics.stats.slots_by_step.clear()  # a server keeps no figures of single steps
                self._count_slots()
                self._last_step = time.monotonic()
            for job in self._running.values():
                job.deliver(EngineError(CLOSING))
        finally:
            engine.close()
            self._count_slots()
        self._running.clear()

    def _count_slots(self) -> None:
        kept = sum(pool.kept for pool in self._pools)
        self._kv_slots = {"running": sum(pool.held for pool in self._pools) - kept, "kept": kept}

    def _admit(self, engine: Engine) -> None:
        """Let waiting requests join."""
        with self._changed:
            while self._waiting and len(self._running) < self._max_batch:
                job = self._waiting[0]  # it stays there if it makes no request
                if not job.cancelled:
                    request = self._request(job)
                    self._running[request] = job
                    engine.add(request)
                self._waiting.popleft()

    def _cancel(self, engine: Engine) -> None:
        """Free the slots of requests whose clients have gone."""
        for request, job in list(self._running.items()):
            if job.cancelled:
                engine.cancel(request)
                del self._running[request]

    def _deliver(self, request: Request) -> None:
        """Hand out what was written."""
        job = self._running[request]
        if job.logprobs is not None:
            job.logprobs.update(request.tree)
        if not request.live:
            del self._running[request]
        if job.wanted or not request.live:
            job.deliver(Snapshot.of(request.tree, request.limit, job.logprobs, request.cached_tokens))

    def _fail(self, error: EngineError) -> None:
        """End all answers that run, or the first that waits where none does."""
        with self._changed:
            jobs = [*self._running.values()] or [self._waiting.popleft() for _ in range(bool(self._waiting))]
        self._running.clear()
        for job in jobs:
            job.deliver(error)

    def _engine(self, runner: ModelRunner, drafter: Drafter | None) -> Engine:
        """An engine for what is asked for now, and until nothing runs; the pools are those of the one before."""
        if self._pools_of is not runner:
            plan = PoolPlan(runner, self._slots, self._pool_kind)
            self._pools, self._pools_of = plan.pools(self._max_batch, self._longest), runner
        return Engine(
            runner,
            drafter,
            self._served.control,
            budget=measured_budget(runner, drafter),
            pools=self._pools,
            context_length=self._served.context_length,
        )

    def _request(self, job: _Job) -> Request:
        """A request as the engine takes it."""
        asked = job.asked
        prompt, sampling = list(asked.prompt_token_ids), asked.sampling
        if asked.logprobs is not None:
            job.logprobs = LogprobsRecorder(asked.logprobs, len(prompt))
        seed = int(torch.randint(2**62, (1,))) if sampling.seed is None else sampling.seed
        return Request(
            tree=ParagraphTree.of_prompt(prompt, self._served.control, asked.max_depth),
            context=prompt,
            limit=asked.max_new_tokens,
            key=root_key(seed, prompt, asked.copy),
            sampler=self._sampler(replace(sampling, seed=None), len(prompt), job.logprobs),
            eos_token_ids=frozenset(self._served.eos_token_ids),
            max_depth=1 if self._served.control is None else asked.max_depth,
            max_threads=asked.max_threads,
            ngrams=NgramDrafter(),
        )

    def _sampler(self, sampling: Sampling, prompt_length: int, logprobs: LogprobsRecorder | None) -> Sampler:
        """The same one for requests that sample alike, which are then sampled together."""
        if logprobs is not None:
            recorded = LogitsProcessorList([logprobs, *self._processors(sampling, prompt_length)])
            return self._new_sampler(sampling, recorded)
        by_answer = sampling.presence_penalty or sampling.frequency_penalty or sampling.grammar
        asked = sampling, prompt_length if by_answer else 0
        if asked not in self._samplers:
            if len(self._samplers) >= _MOST_SAMPLERS:
                self._samplers.clear()
            self._samplers[asked] = self._new_sampler(sampling, self._processors(*asked))
        return self._samplers[asked]

    def _new_sampler(self, sampling: Sampling, processors: LogitsProcessorList) -> Sampler:
        control, draws = self._served.control_of(sampling), sampling.temperature > 0
        (sampler,) = Sampler.of_batch(processors, 1, control, sample=draws, device=self._model.device)
        return sampler

    def _processors(self, sampling: Sampling, prompt_length: int) -> LogitsProcessorList:
        """What transformers makes of such a generation config, in its order, after what OpenAI's clients ask for."""
        processors = LogitsProcessorList()
        if sampling.logit_bias:
            processors.append(TokenBias(sampling.logit_bias))
        if sampling.presence_penalty or sampling.frequency_penalty:
            processors.append(AnswerPenalty(sampling.presence_penalty, sampling.frequency_penalty, prompt_length))
        if sampling.grammar:
            model = self._served
            processors.append(
                GrammarProcessor(
                    sampling.grammar, model.tokenizer, model.vocab_size, model.eos_token_ids, prompt_length
                )
            )
        if sampling.repetition_penalty != 1.0:
            processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
        if sampling.temperature > 0:
            if sampling.temperature != 1.0:
                processors.append(TemperatureLogitsWarper(sampling.temperature))
            if sampling.top_k:
                processors.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1.0:
                processors.append(TopPLogitsWarper(sampling.top_p))
            if sampling.min_p:
                processors.append(MinPLogitsWarper(sampling.min_p))
        return processors

    @property
    def _longest(self) -> int:
        """Slots of the longest path, and of its step."""
        draft_length = 0 if self._model.heads is None else self._model.heads.config.num_heads
        return self._served.context_length + self._served.max_depth + draft_length + 2

    def _slots_for_an_answer(self) -> int:
        """Slots that the device can hold: at least those of the longest path."""
        with self._model.decoding() as (runner, _):
            slots = PoolPlan.of(runner).slots
        if slots < self._longest:
            raise ValueError(
                f"the device has memory for {slots} KV slots, and one answer may need {self._longest}; "
                "free some, or serve a model with a shorter context"
            )
        return slots
