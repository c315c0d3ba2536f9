"""What a client may take of the server: bodies that arrive, and so many requests at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medusa_apar.serving.http.middleware import ClientLimit

Refused = tuple[int, Any]


def client_limit(most: int, app: ASGIApp) -> Callable[[str, str], Any]:
    """Asks an application behind a limit: the status and the body."""
    limited = ClientLimit(app, most)

    async def ask(address: str, method: str = "POST") -> Refused:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request"}

        async def send(message: Message) -> None:
            sent.append(message)

        scope: Scope = {"type": "http", "method": method, "client": (address, 1), "headers": []}
        await limited(scope, receive, send)
        return sent[0]["status"], json.loads(sent[1]["body"] or b"null")

    return ask


def test_one_client_cannot_take_the_places_of_the_others() -> None:
    async def run() -> None:
        gate = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["method"] == "POST":
                await gate.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        ask = client_limit(2, app)
        running = [asyncio.create_task(ask("one", "POST")) for _ in range(2)]
        await asyncio.sleep(0)
        status, body = await ask("one", "POST")
        assert (status, body["error"]["code"]) == (429, "client_limit")
        assert "2 requests running" in body["error"]["message"]
        assert (await ask("one", "GET"))[0] == 200
        other = asyncio.create_task(ask("other", "POST"))
        gate.set()
        assert [status for status, _ in await asyncio.gather(*running, other)] == [200] * 3
        assert (await ask("one", "POST"))[0] == 200

    asyncio.run(run())


def test_a_request_that_fails_gives_its_place_back() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ConnectionResetError

    async def run() -> None:
        ask = client_limit(1, broken)
        for _ in range(3):
            try:
                await ask("one", "POST")
            except ConnectionResetError:
                continue
            raise AssertionError("it was refused")

    asyncio.run(run())
