"""Replicas behind one engine: threads stay with their answer, and outlive a replica."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from transformers import PreTrainedModel

from medusa_apar import MedusaAparModel
from medusa_apar.serving.engines.fleet import Fleet
from medusa_apar.serving.engines.orchestrator import Orchestrator
from medusa_apar.serving.engines.text_engine import EngineError, ThreadRequest
from medusa_apar.serving.requests import AnswerRequest, Sampling
from medusa_apar.serving.served_model import ServedModel

from .http_server import running
from .oracle_engine import OracleEngine
from .test_orchestrator import answers, generated, prompts


@dataclass
class CompletionsServer:
    """Completions with token ids, as vLLM's server has them.

    Attributes:
        engine: writes.
        breaks_behind: lumps of a thread after which its stream breaks off.
        last_words: what stands there in its stream.
        status: of every response.
        with_token_ids: whether it knows `return_token_ids`.
    """

    engine: OracleEngine
    breaks_behind: float = float("inf")
    last_words: str = ""
    status: int = 200
    with_token_ids: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/models")
        async def models() -> Response:
            return JSONResponse({"object": "list", "data": []}, self.status)

        @app.post("/v1/completions")
        async def completions(request: Request) -> Response:
            body = await request.json()
            self.asked.append(body)
            if self.status != 200:
                return JSONResponse({"error": {"message": "no"}}, self.status)
            return StreamingResponse(self.events(body), media_type="text/event-stream")

        return app

    async def events(self, body: dict[str, Any]) -> AsyncGenerator[str]:
        thread = ThreadRequest(
            body["prompt"], body["max_tokens"], body["bad_words"], body["stop_token_ids"], Sampling(), "", 0
        )
        lumps = 0
        async with aclosing(self.engine.stream(thread)) as stream:
            async for token_ids in stream:
                if lumps >= self.breaks_behind:
                    yield self.last_words
                    return  # without a finish reason
                lumps += 1
                yield self.event(token_ids, None)
        yield self.event([], "stop")
        yield "data: [DONE]\n\n"

    def event(self, token_ids: list[int], reason: str | None) -> str:
        choice: dict[str, Any] = {"index": 0, "text": "x" * len(token_ids), "finish_reason": reason, "logprobs": None}
        if self.with_token_ids:
            choice["token_ids"] = token_ids
        chunk = {"id": "1", "object": "text_completion", "created": 0, "model": "tiny", "choices": [choice]}
        return f"data: {json.dumps(chunk)}\n\n"


@pytest.fixture
def servers(backbone: PreTrainedModel) -> list[CompletionsServer]:
    return [CompletionsServer(OracleEngine(backbone)) for _ in range(2)]


@pytest.fixture
def fleet(servers: list[CompletionsServer]) -> Iterator[Fleet]:
    with ExitStack() as stack:
        urls = [stack.enter_context(running(server.app())) + "/v1" for server in servers]
        yield Fleet.at(urls, "tiny", timeout=60.0)


def requests(count: int = 6) -> list[AnswerRequest]:
    return [AnswerRequest(prompt, 50, max_depth=2) for prompt in prompts(count)]


def test_answers_are_those_of_generate(
    fleet: Fleet, servers: list[CompletionsServer], model: MedusaAparModel, served: ServedModel
) -> None:
    found = answers(Orchestrator(fleet, served), *requests())
    assert [each.readable for each in found] == [generated(model, request) for request in requests()]
    assert all(server.asked for server in servers), "the load is shared"
    assert all(body["return_token_ids"] for server in servers for body in server.asked)


def test_threads_of_an_answer_go_where_its_prefix_is(
    fleet: Fleet, servers: list[CompletionsServer], served: ServedModel
) -> None:
    answers(Orchestrator(fleet, served), *requests())
    for request in requests():
        prompt = request.prompt_token_ids
        serving = [
            server for server in servers if any(body["prompt"][: len(prompt)] == prompt for body in server.asked)
        ]
        assert len(serving) == 1


@pytest.mark.parametrize("priorities", [True, False])
def test_priorities_go_to_servers_that_know_them(
    servers: list[CompletionsServer], fleet: Fleet, served: ServedModel, priorities: bool
) -> None:
    fleet.priorities = priorities
    request = AnswerRequest(prompts(1)[0], 20, max_depth=1)
    answers(Orchestrator(fleet, served), request, request)
    sent = [body.get("priority") for server in servers for body in server.asked]
    assert sorted(sent, key=str) == ([0, 1] if priorities else [None, None])


@pytest.mark.parametrize("last_words", ["", 'data: {"error": {"message": "out of memory"}}\n\n', "data: {oops\n\n"])
def test_threads_of_a_replica_that_breaks_off_go_on_at_another(
    fleet: Fleet, servers: list[CompletionsServer], model: MedusaAparModel, served: ServedModel, last_words: str
) -> None:
    servers[0].breaks_behind, servers[0].last_words = 2, last_words
    found = answers(Orchestrator(fleet, served), *requests())
    assert [each.readable for each in found] == [generated(model, request) for request in requests()]


def test_a_replica_in_trouble_is_left_alone(
    fleet: Fleet, servers: list[CompletionsServer], model: MedusaAparModel, served: ServedModel
) -> None:
    servers[0].status = 500
    found = answers(Orchestrator(fleet, served), *requests())
    assert [each.readable for each in found] == [generated(model, request) for request in requests()]
    assert len(servers[0].asked) < len(servers[1].asked)


def test_where_no_replica_is_left_the_answer_ends_with_an_error(
    fleet: Fleet, servers: list[CompletionsServer], served: ServedModel
) -> None:
    for server in servers:
        server.status = 503
    with pytest.raises(EngineError, match="none of the replicas answers: http://127"):
        answers(Orchestrator(fleet, served), requests()[0])


def test_a_fleet_is_healthy_as_long_as_one_replica_is(fleet: Fleet, servers: list[CompletionsServer]) -> None:
    async def run() -> None:
        await fleet.check()
        servers[0].status = 503
        await fleet.check()
        servers[1].status = 503
        with pytest.raises(EngineError, match="none of the replicas answers"):
            await fleet.check()
        await fleet.close()

    asyncio.run(run())


def test_a_refused_request_is_not_asked_again(
    fleet: Fleet, servers: list[CompletionsServer], served: ServedModel
) -> None:
    for server in servers:
        server.status = 400
    with pytest.raises(EngineError, match="refuses the request with status 400"):
        answers(Orchestrator(fleet, served), requests()[0])
    assert sum(len(server.asked) for server in servers) == 1


def test_a_server_without_token_ids_is_named(
    fleet: Fleet, servers: list[CompletionsServer], served: ServedModel
) -> None:
    for server in servers:
        server.with_token_ids = False
    with pytest.raises(EngineError, match="returns no token ids; use a server that knows return_token_ids"):
        answers(Orchestrator(fleet, served), requests()[0])


def test_a_server_that_is_silent_has_failed(
    servers: list[CompletionsServer], model: MedusaAparModel, served: ServedModel
) -> None:
    servers[0].engine.pause = 30.0
    with ExitStack() as stack:
        urls = [stack.enter_context(running(server.app())) + "/v1" for server in servers]
        fleet = Fleet.at(urls, "tiny", timeout=2.0)
        found = answers(Orchestrator(fleet, served), requests(1)[0])
    assert found[0].readable == generated(model, requests(1)[0])
