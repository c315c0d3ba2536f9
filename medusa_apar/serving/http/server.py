"""The HTTP server: OpenAI's interface, streaming in reading order, around anything that writes answers."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.middleware.cors import CORSMiddleware

from ..served_model import ServedModel
from ..snapshots import Answerer
from .admission import Admission
from .answering import Answering
from .bodies import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody, check_model
from .errors import RefusedRequestError, handle_errors
from .middleware import REQUEST_ID, BodyLimit, ClientLimit, RequestId
from .prometheus import Metrics

_READ = ["GET", "HEAD"]


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What the server lets in.

    Attributes:
        running: answers that are written at the same time.
        waiting: requests that wait; further ones get status 429.
        threads: most threads of one answer that write at the same time.
        body_bytes: of a request.
        body_timeout: seconds between two parts of a body.
        per_client: requests of one address at a time; None for no such limit.
    """

    running: int = 64
    waiting: int = 256
    threads: int = 16
    body_bytes: int = 2**20
    body_timeout: float = 60.0
    per_client: int | None = None


def create_app(
    answerer: Answerer,
    model: ServedModel,
    limits: ServerLimits = ServerLimits(),
    api_keys: Sequence[str] = (),
    cors_origins: Sequence[str] = (),
) -> FastAPI:
    """The application.

    Args:
        answerer: writes answers; closed with the application.
        model: what it serves.
        limits: what it lets in.
        api_keys: of which clients have to send one as a bearer token; none lets everybody in.
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
    metrics_of_server = Metrics(admission, answerer.kv_slots)
    answering = Answering(answerer, model, limits.threads, admission, metrics_of_server)

    def check_key(request: Request) -> None:
        if not api_keys:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        equal = [secrets.compare_digest(given.strip().encode(), key.encode()) for key in api_keys]
        if scheme.lower() != "bearer" or not any(equal):
            raise RefusedRequestError(
                "The API key is missing or wrong; send it as a bearer token.", status=401, code="invalid_api_key"
            )

    secured = [Depends(check_key)]
    handle_errors(app, metrics_of_server)

    app.add_middleware(BodyLimit, most=limits.body_bytes, timeout=limits.body_timeout)
    if limits.per_client is not None:
        app.add_middleware(ClientLimit, most=limits.per_client)
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
        return await answering.respond(body, request)

    @app.post("/v1/completions", dependencies=secured)
    async def completions(body: Annotated[CompletionBody, Body()], request: Request) -> Response:
        return await answering.respond(body, request)

    @app.post("/threads", dependencies=secured)
    async def threads(body: Annotated[ChatBody, Body()], request: Request) -> Response:
        return await answering.respond_with_threads(body, request)

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
        return Response(metrics_of_server.exposition(), media_type="text/plain; version=0.0.4")

    @app.api_route("/", methods=_READ)
    async def page() -> HTMLResponse:
        return HTMLResponse(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))

    return app
