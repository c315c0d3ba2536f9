"""The HTTP server: OpenAI's interface, streaming in reading order, around anything that writes answers."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any, TypeVar

from fastapi import Body, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from medusa_apar.sampling.logprobs import TokenLogprobs

from .admission import Admission, QueueFullError
from .api import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    OpenAiResponse,
    RefusedRequestError,
    TokenizeBody,
    check_model,
    error_body,
)
from .detokenizer import IncrementalDetokenizer
from .engines.text_engine import EngineError
from .middleware import REQUEST_ID, BodyLimit, RequestId
from .prometheus import Metrics
from .requests import AnswerRequest
from .served_model import ServedModel
from .snapshots import Answerer, Snapshot
from .together import together

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
T = TypeVar("T")
_READ = ["GET", "HEAD"]
_CODES = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}
"""OpenAI's names of what is wrong with a field."""
UNEXPECTED = "The server failed unexpectedly; its log says how."


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What the server lets in.

    Attributes:
        running: answers that are written at the same time.
        waiting: requests that wait; further ones get status 429.
        threads: most threads of one answer that write at the same time.
        body_bytes: of a request.
    """

    running: int = 64
    waiting: int = 256
    threads: int = 16
    body_bytes: int = 2**20


def create_app(
    answerer: Answerer,
    model: ServedModel,
    limits: ServerLimits = ServerLimits(),
    api_key: str | None = None,
    cors_origins: Sequence[str] = (),
) -> FastAPI:
    """The application.

    Args:
        answerer: writes answers; closed with the application.
        model: what it serves.
        limits: what it lets in.
        api_key: that clients have to send as a bearer token; None lets everybody in.
        cors_origins: of pages in browsers that may ask; `*` lets all of them.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await answerer.close()

    app = FastAPI(
        title="medusa-apar",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        strict_content_type=False,
    )
    admission = Admission(limits.running, limits.waiting)
    serving = _Serving(answerer, model, limits, admission, Metrics(admission))
    app.state.metrics = serving.metrics

    def check_key(request: Request) -> None:
        if api_key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secrets.compare_digest(given.strip().encode(), api_key.encode()):
            raise RefusedRequestError(
                "The API key is missing or wrong; send it as a bearer token.", status=401, code="invalid_api_key"
            )

    secured = [Depends(check_key)]
    _handle_errors(app, serving.metrics)

    app.add_middleware(BodyLimit, most=limits.body_bytes)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "HEAD", "POST", "OPTIONS"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID],
        )
    app.add_middleware(RequestId)

    @app.post("/v1/chat/completions", dependencies=secured)
    async def chat(body: Annotated[ChatBody, Body()], request: Request) -> Response:
        return await serving.respond(body, request)

    @app.post("/v1/completions", dependencies=secured)
    async def completions(body: Annotated[CompletionBody, Body()], request: Request) -> Response:
        return await serving.respond(body, request)

    @app.post("/threads", dependencies=secured)
    async def threads(body: Annotated[ChatBody, Body()], request: Request) -> Response:
        return await serving.respond_with_threads(body, request)

    @app.post("/tokenize", dependencies=secured)
    async def tokenize(body: Annotated[TokenizeBody, Body()]) -> dict[str, Any]:
        return body.tokens(model)

    @app.post("/detokenize", dependencies=secured)
    async def detokenize(body: Annotated[DetokenizeBody, Body()]) -> dict[str, str]:
        return body.text(model)

    served = {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": "medusa-apar",
        "max_model_len": model.context_length,
    }

    @app.api_route("/v1/models", methods=_READ, dependencies=secured)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [served]}

    @app.api_route("/v1/models/{name:path}", methods=_READ, dependencies=secured)
    async def retrieve(name: str) -> dict[str, Any]:
        check_model(name, model)
        return served

    @app.api_route("/health", methods=_READ)
    async def health() -> Response:
        await answerer.check()
        return Response(status_code=200)

    @app.api_route("/metrics", methods=_READ)
    async def metrics() -> Response:
        return Response(serving.metrics.exposition(), media_type="text/plain; version=0.0.4")

    @app.api_route("/", methods=_READ)
    async def page() -> HTMLResponse:
        return HTMLResponse(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))

    return app


def _handle_errors(app: FastAPI, metrics: Metrics) -> None:
    @app.exception_handler(RefusedRequestError)
    async def refused(_: Request, error: RefusedRequestError) -> JSONResponse:
        metrics.requests.labels("refused").inc()
        kind = "authentication_error" if error.status == 401 else "invalid_request_error"
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
        return JSONResponse(error_body(error.message, kind, error.param, error.code), error.status, headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        metrics.requests.labels("refused").inc()
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return JSONResponse(
                error_body(f"The body is no JSON: {first['ctx']['error']}.", "invalid_request_error"), 400
            )
        param = ".".join(str(part) for part in first["loc"] if part != "body")
        shown = "" if first["type"] == "missing" else f" (is {str(first.get('input'))[:80]!r})"
        message = f"{param or 'The body'}: {first['msg'].removeprefix('Value error, ')}{shown}."
        code = _CODES.get(first["type"], "invalid_value")
        return JSONResponse(error_body(message, "invalid_request_error", param or None, code), 400)

    @app.exception_handler(QueueFullError)
    async def full(_: Request, error: QueueFullError) -> JSONResponse:
        metrics.requests.labels("queue_full").inc()
        body = error_body("The queue is full; ask again later.", "rate_limit_error", code="queue_full")
        return JSONResponse(body, 429, headers={"Retry-After": "1"})

    @app.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> Response:
        allowed = (error.headers or {}).get("Allow", "")
        if request.method == "OPTIONS" and allowed:
            return Response(status_code=204, headers={"Allow": f"{allowed}, OPTIONS"})
        metrics.requests.labels("refused").inc()
        return JSONResponse(error_body(f"{error.detail}.", "invalid_request_error"), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        metrics.requests.labels("failed").inc()
        return JSONResponse(error_body(UNEXPECTED, "server_error"), 500)

    @app.exception_handler(EngineError)
    async def failed(_: Request, error: EngineError) -> JSONResponse:
        metrics.requests.labels("failed").inc()
        return JSONResponse(error_body(str(error), "server_error"), 503)


class _Serving:
    """Answers requests, counts them, and lets go of answers whose clients have gone."""

    def __init__(
        self, answerer: Answerer, model: ServedModel, limits: ServerLimits, admission: Admission, metrics: Metrics
    ) -> None:
        self.answerer = answerer
        self.model = model
        self.limits = limits
        self.admission = admission
        self.metrics = metrics

    async def respond(self, body: ChatBody | CompletionBody, request: Request) -> Response:
        """Answer as OpenAI's server does."""
        asked = body.answer_requests(self.model, self.limits.threads)
        for name, wanted in (
            ("response_format", asked[0].sampling.grammar),
            ("logprobs", asked[0].logprobs is not None),
        ):
            if wanted and not self.answerer.sees_scores:
                raise RefusedRequestError(f"{name}: --engine native alone has it; leave it out.", name)
        prompt_tokens = sum(len(each.prompt_token_ids) for each in asked if each.copy == 0)
        reply = OpenAiResponse(body, self.model, prompt_tokens)
        texts = together([self._texts(each, body.stop_strings) for each in asked])
        if not body.stream:
            return await self._whole(texts, reply, request)
        # The first text is waited for, so that a full queue and a dead engine have a status of their own.
        first = await _unless_gone(request, anext(texts))
        if first is None:
            await texts.aclose()
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        usage = body.stream_options is not None and body.stream_options.include_usage
        return _event_stream(self._chunks(first, texts, reply, usage=usage))

    async def respond_with_threads(self, body: ChatBody, request: Request) -> Response:
        """Stream the answer's pieces with their threads, all of them each time."""
        if body.stop_strings:
            raise RefusedRequestError(f"stop={body.stop!r} is not known here; leave it out.", "stop")
        asked, *others = body.answer_requests(self.model, self.limits.threads)
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

    async def _whole(self, texts: _Texts, reply: OpenAiResponse, request: Request) -> Response:
        async def read() -> dict[int, _Text]:
            async with aclosing(texts):
                return {number: text async for number, text in texts}

        last = await _unless_gone(request, read())
        if last is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        ends = [text for _, text in sorted(last.items())]
        whole = [(text.whole, str(text.finish_reason), text.logprobs) for text in ends]
        return JSONResponse(reply.whole(whole, sum(text.tokens for text in ends)))

    async def _chunks(
        self, first: tuple[int, _Text], texts: _Texts, reply: OpenAiResponse, *, usage: bool
    ) -> AsyncGenerator[dict[str, Any]]:
        tokens: dict[int, int] = {}
        sent: Counter[int] = Counter()  # log-probabilities

        def chunks(number: int, text: _Text) -> Iterator[dict[str, Any]]:
            first, ends = number not in tokens, text.finish_reason is not None
            tokens[number] = text.tokens
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
            if usage:
                yield reply.usage_chunk(sum(tokens.values()))

    async def _texts(self, asked: AnswerRequest, stop: list[str]) -> AsyncGenerator[_Text]:
        """The answer's text in reading order, as it becomes certain; the last one has a finish reason."""
        reading = IncrementalDetokenizer(self.model, stop)
        async with aclosing(self._snapshots(asked, lambda: reading.stopped)) as snapshots:
            async for snapshot in snapshots:
                readable = snapshot.readable
                new = reading.update(readable, final=snapshot.finish_reason is not None)
                reason = "stop" if reading.stopped else snapshot.finish_reason
                logprobs = snapshot.readable_logprobs[: reading.tokens]
                yield _Text(new, reading.text, reading.tokens, reason, self._of_text(logprobs))
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


_Texts = AsyncGenerator[tuple[int, _Text]]
"""The texts of several answers, each with the answer's number."""


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
