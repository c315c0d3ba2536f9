"""Every response says which request it answers: `X-Request-ID`, the client's own or a new one."""

from __future__ import annotations

import re
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
_PLAIN = re.compile(r"[\x21-\x7e]{1,128}")
"""What a client may choose: it is sent back, and so must not be a line of its own."""


class RequestId:
    """Middleware that adds the header.

    Args:
        app: the application that it wraps.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get(HEADER, "")
        own = given if _PLAIN.fullmatch(given) else uuid4().hex

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = own
            await send(message)

        return await self._app(scope, receive, with_id)
