"""What every request and every response goes through: limits on bodies and on clients, and `X-Request-ID`."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import error_body

REQUEST_ID = "x-request-id"
_PLAIN = re.compile(r"[\x21-\x7e]{1,128}")
"""What a client may choose: it is sent back, and so must not be a line of its own."""


class BodyLimit:
    """Refuses bodies that are too long before they are read, and bodies that do not arrive in time.

    It goes by the header Content-Length, and asks for it where it is missing.

    Args:
        app: the application that it wraps.
        most: bytes of a body.
        timeout: seconds between two parts of a body.
    """

    def __init__(self, app: ASGIApp, most: int, timeout: float) -> None:
        self._app = app
        self._most = most
        self._timeout = timeout

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
            receive = self._in_time(receive)
        await self._app(scope, receive, send)

    def _in_time(self, receive: Receive) -> Receive:
        """The same, up to the end of the body with a limit on the time for each part."""
        arriving = True

        async def received() -> Message:
            nonlocal arriving
            if not arriving:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self._timeout)
            except TimeoutError:
                raise HTTPException(408, f"The body did not arrive within {self._timeout:g} s") from None
            arriving = bool(message.get("more_body"))
            return message

        return received


class ClientLimit:
    """Refuses what a client asks beyond so many requests at a time.

    Args:
        app: the application that it wraps.
        most: requests of one address at a time.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._running: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        address = (scope.get("client") or [""])[0]
        if self._running[address] >= self._most:
            message = (
                f"This client has {self._most} requests running, which is the limit; ask again when one has ended."
            )
            body = error_body(message, "rate_limit_error", code="client_limit")
            return await JSONResponse(body, 429, headers={"Retry-After": "1"})(scope, receive, send)
        self._running[address] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running[address] -= 1
            if not self._running[address]:
                del self._running[address]


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
