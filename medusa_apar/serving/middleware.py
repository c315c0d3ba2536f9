"""What every request and every response goes through: a limit on bodies, and `X-Request-ID`."""

from __future__ import annotations

import re
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .api import error_body

REQUEST_ID = "x-request-id"
_PLAIN = re.compile(r"[\x21-\x7e]{1,128}")
"""What a client may choose: it is sent back, and so must not be a line of its own."""


class BodyLimit:
    """Refuses bodies that are too long before they are read.

    It goes by the header Content-Length, and asks for it where it is missing.

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


class RequestId:
    """Adds `X-Request-ID`, the client's own or a new one.

    Args:
        app: the application that it wraps.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get(REQUEST_ID, "")
        own = given if _PLAIN.fullmatch(given) else uuid4().hex

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = own
            await send(message)

        return await self._app(scope, receive, with_id)
