"""Errors in OpenAI's format, and what becomes one."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ..engines.text_engine import EngineError
from .admission import QueueFullError
from .prometheus import Metrics

_CODES = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}
"""OpenAI's names of what is wrong with a field."""
UNEXPECTED = "The server failed unexpectedly; its log says how."


class RefusedRequestError(Exception):
    """A request that cannot be served; says why.

    Args:
        message: names the argument, the value and the remedy.
        param: the argument.
        status: of the HTTP response.
        code: OpenAI's name of the error.
    """

    def __init__(
        self, message: str, param: str | None = None, status: int = 400, code: str | None = "invalid_value"
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.status = status
        self.code = code


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's format."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def handle_errors(app: FastAPI, metrics: Metrics) -> None:
    """Answer whatever is raised in OpenAI's format, and count it."""

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
