"""Answers requests: admission, metrics, streams, and cancellation when a client disconnects."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from medusa_apar.sampling.logprobs import TokenLogprobs

from ..detokenizer import IncrementalDetokenizer
from ..engines.text_engine import EngineError
from ..requests import AnswerRequest
from ..served_model import ServedModel
from ..snapshots import Answerer, Snapshot
from .admission import Admission
from .bodies import ChatBody, CompletionBody
from .errors import UNEXPECTED, RefusedRequestError, error_body
from .openai_response import OpenAiResponse, Usage
from .prometheus import Metrics
from .together import together

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
T = TypeVar("T")


class Answering:
    """Answers requests, counts them, and lets go of answers whose clients have gone.

    Args:
        answerer: writes the answers.
        model: what it serves.
        most_threads: threads of one answer that write at the same time.
        admission: says when it is an answer's turn.
        metrics: of the server.
    """

    def __init__(
        self, answerer: Answerer, model: ServedModel, most_threads: int, admission: Admission, metrics: Metrics
    ) -> None:
        self.answerer = answerer
        self.model = model
        self.most_threads = most_threads
        self.admission = admission
        self.metrics = metrics

    async def respond(self, body: ChatBody | CompletionBody, request: Request) -> Response:
        """Answer as OpenAI's server does."""
        asked = body.answer_requests(self.model, self.most_threads)
        for name, wanted in (
            ("response_format", asked[0].sampling.grammar),
            ("logprobs", asked[0].logprobs is not None),
        ):
            if wanted and not self.answerer.sees_scores:
                raise RefusedRequestError(f"{name}: --engine native alone has it; leave it out.", name)
        reply = OpenAiResponse(body, self.model)
        texts = together([self._texts(each, body.stop_strings) for each in asked])
        if not body.stream:
            return await self._whole(asked, texts, reply, request)
        # The first text is waited for, so that a full queue and a dead engine have a status of their own.
        first = await _unless_gone(request, anext(texts))
        if first is None:
            await texts.aclose()
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        usage = body.stream_options is not None and body.stream_options.include_usage
        return _event_stream(self._chunks(asked if usage else None, first, texts, reply))

    async def respond_with_threads(self, body: ChatBody, request: Request) -> Response:
        """Stream the answer's pieces with their threads, all of them each time."""
        if body.stop_strings:
            raise RefusedRequestError(f"stop={body.stop!r} is not known here; leave it out.", "stop")
        asked, *others = body.answer_requests(self.model, self.most_threads)
        if others:
            raise RefusedRequestError(f"n={body.n} is for /v1; leave it out here.", "n")
        snapshots = self._snapshots(asked)
        first = await _unless_gone(request, anext(snapshots))
        if first is None:
            await snapshots.aclose()
            return Response(status_code=CLIENT_CLOSED_REQUEST)

        async def events() -> AsyncGenerator[dict[str, Any]]:
            start = time.perf_counter()
            async with aclosing(snapshots):
                yield self._pieces(first, start)
                try:
                    async for snapshot in snapshots:
                        yield self._pieces(snapshot, start)
                except Exception as error:  # the status has been sent; the stream has to say it
                    yield self._failed(error)

        return _event_stream(events())

    def _pieces(self, snapshot: Snapshot, start: float) -> dict[str, Any]:
        pieces = [
            {"thread": piece.thread, "text": self.model.text(piece.token_ids), "running": piece.running}
            for piece in snapshot.pieces
        ]
        seconds = max(1e-6, time.perf_counter() - start)
        return {
            "pieces": pieces,
            "threads": snapshot.threads,
            "running": snapshot.running,
            "tokens": snapshot.tokens,
            "tokens_per_second": snapshot.tokens / seconds,
            "finish_reason": snapshot.finish_reason,
        }

    def _failed(self, error: Exception) -> dict[str, Any]:
        self.metrics.requests.labels("failed").inc()
        if not isinstance(error, EngineError):
            logger.exception("an answer failed in its stream")
        return error_body(str(error) if isinstance(error, EngineError) else UNEXPECTED, "server_error")

    async def _whole(
        self, asked: Sequence[AnswerRequest], texts: _Texts, reply: OpenAiResponse, request: Request
    ) -> Response:
        async def read() -> dict[int, _Text]:
            async with aclosing(texts):
                return {number: text async for number, text in texts}

        last = await _unless_gone(request, read())
        if last is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        ends = [text for _, text in sorted(last.items())]
        whole = [(text.whole, str(text.finish_reason), text.logprobs) for text in ends]
        return JSONResponse(reply.whole(whole, _usage(asked, last)))

    async def _chunks(
        self, asked: Sequence[AnswerRequest] | None, first: tuple[int, _Text], texts: _Texts, reply: OpenAiResponse
    ) -> AsyncGenerator[dict[str, Any]]:
        """The stream; with a last chunk that says what was used by `asked`, if that is given."""
        last: dict[int, _Text] = {}
        sent: Counter[int] = Counter()  # log-probabilities

        def chunks(number: int, text: _Text) -> Iterator[dict[str, Any]]:
            first, ends = number not in last, text.finish_reason is not None
            last[number] = text
            if text.new or first or (ends and len(text.logprobs) > sent[number]):
                logprobs = text.logprobs, sent[number]
                yield reply.chunk(text.new, index=number, first=first, logprobs=logprobs)
                sent[number] = len(text.logprobs)
            if ends:
                yield reply.chunk("", text.finish_reason, index=number)

        async with aclosing(texts):
            try:
                for chunk in chunks(*first):
                    yield chunk
                async for number, text in texts:
                    for chunk in chunks(number, text):
                        yield chunk
            except Exception as error:  # the status has been sent; the stream has to say it
                yield self._failed(error)
                return
            if asked is not None:
                yield reply.usage_chunk(_usage(asked, last))

    async def _texts(self, asked: AnswerRequest, stop: list[str]) -> AsyncGenerator[_Text]:
        """The answer's text in reading order, as it becomes certain; the last one has a finish reason."""
        reading = IncrementalDetokenizer(self.model, stop)
        async with aclosing(self._snapshots(asked, lambda: reading.stopped)) as snapshots:
            async for snapshot in snapshots:
                readable = snapshot.readable
                new = reading.update(readable, final=snapshot.finish_reason is not None)
                reason = "stop" if reading.stopped else snapshot.finish_reason
                logprobs = self._of_text(snapshot.readable_logprobs[: reading.tokens])
                yield _Text(new, reading.text, reading.tokens, reason, logprobs, snapshot.cached_tokens)
                if reason is not None:
                    return

    def _of_text(self, logprobs: Sequence[TokenLogprobs | None]) -> list[TokenLogprobs]:
        """Those of tokens that are text."""
        return [each for each in logprobs if each is not None and each.token_id not in self.model.eos_token_ids]

    async def _snapshots(
        self, asked: AnswerRequest, stopped: Callable[[], bool] = lambda: False
    ) -> AsyncGenerator[Snapshot]:
        """The answer while it grows, once it is its turn; counted.

        Args:
            asked: what is asked.
            stopped: whether who leaves off here has all of the answer, up to a stop string.
        """
        start, readable, threads = time.perf_counter(), False, 0
        snapshot: Snapshot | None = None
        async with self.admission.turn():
            try:
                async with aclosing(self.answerer.answer(asked)) as snapshots:
                    async for snapshot in snapshots:
                        self.metrics.threads.inc(snapshot.running - threads)
                        threads = snapshot.running
                        if not readable and snapshot.readable:
                            readable = True
                            self.metrics.first_token.observe(time.perf_counter() - start)
                        if snapshot.finish_reason is not None:
                            self.metrics.finished(len(asked.prompt_token_ids), snapshot, time.perf_counter() - start)
                        yield snapshot
            except (GeneratorExit, asyncio.CancelledError):
                if snapshot is None or snapshot.finish_reason is None:
                    if snapshot is not None and stopped():
                        self.metrics.finished(len(asked.prompt_token_ids), snapshot, time.perf_counter() - start)
                    else:
                        self.metrics.requests.labels("closed").inc()
                raise
            finally:
                self.metrics.threads.dec(threads)


@dataclass(frozen=True, slots=True)
class _Text:
    """An answer's text at one moment: what is new of it, all of it, its tokens, and their log-probabilities."""

    new: str
    whole: str
    tokens: int
    finish_reason: str | None
    logprobs: list[TokenLogprobs]
    cached_tokens: int


_Texts = AsyncGenerator[tuple[int, _Text]]
"""The texts of several answers, each with the answer's number."""


def _usage(asked: Sequence[AnswerRequest], texts: Mapping[int, _Text]) -> Usage:
    """Tokens of some answers, by their numbers; a prompt counts once."""
    prompts = [number for number, each in enumerate(asked) if each.copy == 0]
    return Usage(
        prompt=sum(len(asked[number].prompt_token_ids) for number in prompts),
        answers=sum(text.tokens for text in texts.values()),
        cached=sum(texts[number].cached_tokens for number in prompts),
    )


async def _unless_gone(request: Request, work: Awaitable[T]) -> T | None:
    """The result of some work, or None and no more work where the client has gone before."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event_stream(events: AsyncGenerator[dict[str, Any]]) -> StreamingResponse:
    async def lines() -> AsyncGenerator[str]:
        async with aclosing(events):
            async for event in events:
                yield f"data: {json.dumps(event, ensure_ascii=False)}\n\n"
            yield "data: [DONE]\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
