"""Threads of an answer as requests of a plain engine: Batched-APAR without a fork of the engine.

A thread's context is a plain prefix and its own tokens. So a child is one more request, whose prompt is its parent's
context up to `[Fork]`, and `[Child]`; the engine's prefix cache shares the keys and values, and its block manager gives
them back when the thread ends. Source: APAR (Liu et al. 2024, arXiv 2401.06761), sections 3.3 and 4.3.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from itertools import count
from uuid import uuid4

from medusa_apar.sampling.randomness import child_key, root_key
from medusa_apar.tree.paragraph_tree import ParagraphTree, Thread

from ..requests import AnswerRequest
from ..served_model import ServedModel
from ..snapshots import Snapshot
from .text_engine import TIMEOUT, Engine, EngineError, ThreadRequest

_SEEDS = 2**63
"""Engines take seeds below this."""


class Orchestrator:
    """Writes answers in threads on an engine that knows nothing of them.

    Args:
        engine: what writes threads.
        model: the model that it serves.
        timeout: seconds in which the engine writes no token of any answer after which it has stalled.
    """

    sees_scores = False

    def __init__(self, engine: Engine, model: ServedModel, timeout: float = TIMEOUT) -> None:
        self.engine = engine
        self.model = model
        self._timeout = timeout
        self._last_growth = time.monotonic()
        self._places = count()

    async def answer(self, request: AnswerRequest) -> AsyncGenerator[Snapshot]:
        """Write an answer, as `Answerer` says."""
        writing = _Writing(self.engine, self.model, request, next(self._places))
        try:
            writing.begin()
            while (snapshot := await self._next(writing)).finish_reason is None:
                yield snapshot
            yield snapshot
        finally:
            await writing.cancel()

    async def _next(self, writing: _Writing) -> Snapshot:
        while True:
            try:
                async with asyncio.timeout(self._timeout):
                    snapshot = await writing.next_snapshot()
            except TimeoutError:
                if time.monotonic() - self._last_growth < self._timeout:
                    continue  # other answers grow, and this one waits for its turn
                raise EngineError(f"the engine has written nothing for {self._timeout:g} seconds") from None
            self._last_growth = time.monotonic()
            return snapshot

    def kv_slots(self) -> dict[str, int]:
        """As `Answerer` says; the engine keeps them."""
        return {}

    async def check(self) -> None:
        """As `Answerer` says."""
        await self.engine.check()

    async def close(self) -> None:
        """As `Answerer` says."""
        await self.engine.close()


class _Writing:
    """One answer while its threads run, each in a task of its own."""

    def __init__(self, engine: Engine, model: ServedModel, request: AnswerRequest, place: int) -> None:
        self._engine = engine
        self._model = model
        self._request = request
        self._place = place
        self._name = uuid4().hex
        self._room = asyncio.Semaphore(request.max_threads)
        self._grown = asyncio.Event()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        sampling = request.sampling
        self._keys = [] if sampling.seed is None else [root_key(sampling.seed, request.prompt_token_ids, request.copy)]
        control = model.control
        prompt = list(request.prompt_token_ids)
        self._tree = ParagraphTree(
            [Thread(prompt, len(prompt), len(prompt))],
            control.fork_token_id if control else None,
            control.child_token_id if control else None,
            request.max_depth,
        )

    def begin(self) -> None:
        """Start the root thread."""
        self._start(0)

    async def next_snapshot(self) -> Snapshot:
        """The answer once it has grown.

        Raises:
            EngineError: a thread has failed.
        """
        await self._grown.wait()
        self._grown.clear()
        for task in self._tasks.values():
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error
        return Snapshot.of(self._tree, self._request.max_new_tokens)

    async def cancel(self) -> None:
        """End all threads, and wait until the engine has let go of them."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _start(self, index: int) -> None:
        task = asyncio.create_task(self._write(index))
        task.add_done_callback(lambda _: self._grown.set())
        self._tasks[index] = task

    async def _write(self, index: int) -> None:
        thread = self._tree.threads[index]
        async with self._room:
            if thread.finish_reason is not None:  # the limit has been reached before its turn
                return
            async with aclosing(self._engine.stream(self._thread_request(index))) as stream:
                async for token_ids in stream:
                    for token in token_ids:
                        if thread.finish_reason is None:
                            self._append(index, token)
                    self._enforce_limit()
                    self._grown.set()
                    if thread.finish_reason is not None:
                        return
            thread.finish_reason = "length"

    def _append(self, index: int, token: int) -> None:
        """Take a token of a thread; at `[Fork]` open the child, while the parent goes on.

        Raises:
            EngineError: the model has no such token, or it is `[Child]`, which no thread may write.
        """
        control = self._model.control
        if not self._model.knows(token) or (control is not None and token == control.child_token_id):
            raise EngineError(
                f"the engine wrote token {token!r}, which {self._model.name!r} cannot write; is it another model's?"
            )
        thread = self._tree.threads[index]
        thread.token_ids.append(token)
        if token in self._model.eos_token_ids:
            thread.finish_reason = "eos"
        elif len(thread.token_ids) >= self._model.context_length:
            thread.finish_reason = "context"
        if control is not None and token == control.fork_token_id:
            self._open_child(index)

    def _open_child(self, parent: int) -> None:
        ordinal = sum(thread.parent == parent for thread in self._tree.threads)
        child = self._tree.open_child(parent, len(self._tree.threads[parent].token_ids), step=0)
        if self._keys:
            self._keys.append(child_key(self._keys[parent], ordinal))
        if len(self._tree.threads[child].token_ids) >= self._model.context_length:
            self._tree.threads[child].finish_reason = "context"
        else:
            self._start(child)

    def _enforce_limit(self) -> None:
        """End the threads whose next token comes after the limit in reading order."""
        limit = self._request.max_new_tokens
        if self._tree.visible_tokens() < limit:
            return
        for index in self._tree.threads_after(limit):
            thread = self._tree.threads[index]
            if thread.finish_reason is None:
                thread.finish_reason = "length"
                if (task := self._tasks[index]) is not asyncio.current_task():
                    task.cancel()

    def _thread_request(self, index: int) -> ThreadRequest:
        thread, request = self._tree.threads[index], self._request
        sampling = request.sampling
        if self._keys:
            sampling = replace(sampling, seed=self._keys[index] % _SEEDS)
        may_fork, control = thread.depth < request.max_depth, self._model.control_of(sampling)
        if may_fork and control is not None and control.fork_bias:
            fork = control.fork_token_id, control.fork_bias
            sampling = replace(sampling, logit_bias=(*sampling.logit_bias, fork))
        room = self._model.context_length - len(thread.token_ids)
        return ThreadRequest(
            prompt_token_ids=list(thread.token_ids),
            # Half of a thread's tokens may be [Fork], which the limit does not count.
            max_tokens=min(room, 2 * request.max_new_tokens),
            bad_words=bad_words(self._model, may_fork=may_fork),
            stop_token_ids=self._model.eos_token_ids,
            sampling=sampling,
            answer=self._name,
            priority=self._place,
        )


def bad_words(model: ServedModel, *, may_fork: bool) -> list[str]:
    """The rules of `ControlTokenRules` as texts that a thread may not write."""
    if model.control is None:
        return []
    fork, child = (_text_of(model, token) for token in (model.control.fork_token_id, model.control.child_token_id))
    return [child, fork + fork if may_fork else fork]


def _text_of(model: ServedModel, token: int) -> str:
    return str(model.tokenizer.convert_ids_to_tokens(token))
