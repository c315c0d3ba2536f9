"""Bodies that are too long are refused before they are read."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from .api import error_body


class BodyLimit:
    """Middleware that goes by the header Content-Length, and asks for it where it is missing.

    Args:
        app: the application that it wraps.
        most: bytes of a body.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            length = Headers(scope=scope).get("content-length", "")
            if not length.isdigit():
                refusal = JSONResponse(error_body("Send a Content-Length.", "invalid_request_error"), 411)
                return await refusal(scope, receive, send)
            if int(length) > self._most:
                message = f"The request has {length} bytes; {self._most} are the limit."
                refusal = JSONResponse(error_body(message, "invalid_request_error"), 413)
                return await refusal(scope, receive, send)
        await self._app(scope, receive, send)
