"""The server as its clients see it: OpenAI's own client, unchanged."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI
from transformers import PreTrainedModel

from medusa_apar import MedusaAparModel
from medusa_apar.serving.engines.native import NativeAnswerer
from medusa_apar.serving.engines.orchestrator import Orchestrator
from medusa_apar.serving.http.bodies import LEAST_TEMPERATURE, ChatBody
from medusa_apar.serving.http.server import ServerLimits, create_app
from medusa_apar.serving.served_model import ServedModel

from .http_server import running
from .oracle_engine import OracleEngine
from .test_orchestrator import prompts

CHAT: Any = [{"role": "user", "content": "w17 w9 w8 w33 w60"}]
Serve = Callable[..., AbstractContextManager[str]]


def chat_tokens(model: MedusaAparModel, served: ServedModel, **options: Any) -> list[int]:
    """What `generate` answers to the chat."""
    prompt = served.tokenizer.apply_chat_template(
        CHAT, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )["input_ids"]  # type: ignore[index]
    output: Any = model.generate(prompt, max_depth=3, **options)
    return output[0, prompt.shape[1] :].tolist()


@pytest.fixture
def engine(backbone: PreTrainedModel) -> OracleEngine:
    return OracleEngine(backbone)


@pytest.fixture(params=["native", "threads of an engine"])
def address(request: pytest.FixtureRequest, model: MedusaAparModel, served: ServedModel) -> Iterator[str]:
    answerer = (
        NativeAnswerer(model, served)
        if request.param == "native"
        else Orchestrator(OracleEngine(model.backbone), served)
    )
    with running(create_app(answerer, served)) as address:
        yield address


def client_of(address: str, key: str = "any") -> OpenAI:
    return OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)


def test_openais_client_gets_the_answer_of_generate(address: str, model: MedusaAparModel, served: ServedModel) -> None:
    expected = chat_tokens(model, served, max_new_tokens=60)
    answer = client_of(address).chat.completions.create(model="tiny", messages=CHAT, max_tokens=60)
    assert answer.choices[0].message.content == served.text(expected)
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(expected)
    assert answer.usage.prompt_tokens == 6
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_a_stream_joins_to_the_same_answer(address: str, model: MedusaAparModel, served: ServedModel) -> None:
    chunks = list(
        client_of(address).chat.completions.create(
            model="tiny", messages=CHAT, max_completion_tokens=60, stream=True, stream_options={"include_usage": True}
        )
    )
    expected = chat_tokens(model, served, max_new_tokens=60)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == served.text(expected)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] in ("stop", "length")
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(expected)


def test_completions_take_text_and_token_ids(address: str, served: ServedModel) -> None:
    client = client_of(address)
    ids = prompts(1)[0]
    text = " ".join(f"w{token}" for token in ids)
    by_ids = client.completions.create(model="tiny", prompt=ids, max_tokens=20)
    by_text = client.completions.create(model="tiny", prompt=text, max_tokens=20)
    assert by_ids.choices[0].text == by_text.choices[0].text != ""
    assert by_ids.object == "text_completion"


def test_our_own_arguments_and_stop_strings(address: str, model: MedusaAparModel, served: ServedModel) -> None:
    client = client_of(address)
    plain = client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=60, extra_body={"apar": False})
    expected = chat_tokens(model, served, max_new_tokens=60, apar=False)
    text = plain.choices[0].message.content
    assert text == served.text(expected)
    assert text is not None
    word = text.split()[4]
    cut = client.chat.completions.create(
        model="tiny", messages=CHAT, max_tokens=60, stop=[word], extra_body={"apar": False}
    )
    assert cut.choices[0].message.content == text[: text.index(word)]
    assert cut.choices[0].finish_reason == "stop"
    figures = httpx2.get(f"{address}/metrics").text
    assert 'medusa_apar_requests_total{outcome="finished"} 2.0' in figures
    assert "medusa_apar_request_seconds_count 2.0" in figures


def test_models_and_health_and_metrics(address: str) -> None:
    client = client_of(address)
    assert [model.id for model in client.models.list()] == ["tiny"]
    client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=30)
    assert httpx2.get(f"{address}/health").status_code == 200
    figures = httpx2.get(f"{address}/metrics").text
    assert 'medusa_apar_requests_total{outcome="finished"} 1.0' in figures
    assert 'medusa_apar_tokens_total{kind="prompt"} 6.0' in figures
    assert "medusa_apar_threads 0.0" in figures
    assert "medusa_apar_requests_waiting 0.0" in figures
    assert "process_resident_memory_bytes" in figures


def test_metrics_tell_the_slots_of_the_native_engine(model: MedusaAparModel, served: ServedModel) -> None:
    with running(create_app(NativeAnswerer(model, served), served)) as address:
        client_of(address).chat.completions.create(model="tiny", messages=CHAT, max_tokens=30)
        figures = httpx2.get(f"{address}/metrics").text
    assert 'medusa_apar_kv_slots{state="running"} 0.0' in figures
    kept = next(line for line in figures.splitlines() if line.startswith('medusa_apar_kv_slots{state="kept"}'))
    assert float(kept.split()[1]) >= 6


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({}, 400, "messages: Field required."),
        ({"messages": []}, 400, "messages: "),
        (
            {"messages": CHAT, "temperature": -1},
            400,
            "temperature: Input should be greater than or equal to 0 (is '-1')",
        ),
        ({"messages": CHAT, "n": 129}, 400, "n: Input should be less than or equal to 128 (is '129')"),
        ({"messages": CHAT, "repetition_penalty": 1e-40}, 400, "repetition_penalty: Input should be greater"),
        ({"messages": CHAT, "tool": []}, 400, "tool: Extra inputs are not permitted"),
        ({"messages": CHAT, "model": "gpt-9"}, 404, "The model 'gpt-9' does not exist; this server has 'tiny'."),
        (
            {"messages": [{"role": "user", "content": "w4 " * 300}]},
            400,
            "The prompt has 301 tokens; give from 1 to 255.",
        ),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    served: ServedModel, engine: OracleEngine, body: dict[str, Any], status: int, error: str
) -> None:
    with running(create_app(Orchestrator(engine, served), served)) as address:
        response = httpx2.post(f"{address}/v1/chat/completions", json=body)
    assert response.status_code == status
    assert error in response.json()["error"]["message"]
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_not_json_or_too_long(served: ServedModel, engine: OracleEngine) -> None:
    limits = ServerLimits(body_bytes=100)
    with running(create_app(Orchestrator(engine, served), served, limits)) as address:
        url = f"{address}/v1/chat/completions"
        json_type = {"content-type": "application/json"}
        no_json = httpx2.post(url, content="{", headers=json_type)
        no_text = httpx2.post(url, content=b"\xff", headers=json_type)
        elsewhere = httpx2.get(f"{address}/v1/elsewhere")
        wrongly = httpx2.get(url)
        long = httpx2.post(url, json={"messages": CHAT, "user": "x" * 200})
        unknown = httpx2.post(url, content=iter([b"{}"]))
    assert no_json.status_code == no_text.status_code == 400
    assert no_json.json()["error"]["message"].startswith("The body is no JSON: ")
    assert no_json.json()["error"]["param"] is None
    assert (elsewhere.status_code, wrongly.status_code) == (404, 405)
    for response in (no_text, elsewhere, wrongly):
        assert response.json()["error"]["type"] == "invalid_request_error"
    assert long.status_code == 413
    assert "100 are the limit" in long.json()["error"]["message"]
    assert unknown.status_code == 411


def test_only_those_with_a_key_come_in(served: ServedModel, engine: OracleEngine) -> None:
    with running(create_app(Orchestrator(engine, served), served, api_keys=["secret", "another"])) as address:
        for wrong in ("draft", "secret,another"):
            with pytest.raises(openai.AuthenticationError, match="API key is missing or wrong"):
                client_of(address, wrong).models.list()
        for key in ("secret", "another"):
            assert client_of(address, key).models.list().data[0].id == "tiny"
        assert httpx2.get(f"{address}/health").status_code == 200, "for whoever watches over the server"


@contextmanager
def slow_server(served: ServedModel, engine: OracleEngine, **limits: int) -> Iterator[str]:
    engine.pause = 0.05
    with running(create_app(Orchestrator(engine, served), served, ServerLimits(**limits))) as address:
        yield address


def test_behind_a_full_queue_there_is_status_429(served: ServedModel, engine: OracleEngine) -> None:
    outcomes: list[str] = []

    def ask(address: str) -> None:
        try:
            client_of(address).chat.completions.create(
                model="tiny", messages=CHAT, max_tokens=40, extra_body={"max_depth": 2}
            )
            outcomes.append("answered")
        except openai.RateLimitError as error:
            outcomes.append(f"refused for {error.response.headers['retry-after']} s")

    with slow_server(served, engine, running=1, waiting=2) as address:
        threads = [threading.Thread(target=ask, args=(address,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        figures = httpx2.get(f"{address}/metrics").text
    assert sorted(outcomes) == ["answered"] * 3 + ["refused for 1 s"] * 3
    assert 'outcome="queue_full"} 3.0' in figures


@pytest.mark.integration
def test_a_thousand_requests_at_once_are_answered_or_told_to_come_again(
    served: ServedModel, engine: OracleEngine
) -> None:
    body = {"messages": CHAT, "max_tokens": 20, "max_depth": 2}

    async def ask_all(address: str) -> list[int]:
        limits = httpx2.Limits(max_connections=1000)
        async with httpx2.AsyncClient(limits=limits, timeout=60) as client:
            url = f"{address}/v1/chat/completions"
            responses = await asyncio.gather(*(client.post(url, json=body) for _ in range(1000)))
        return [response.status_code for response in responses]

    with slow_server(served, engine, running=4, waiting=16) as address:
        statuses = Counter(asyncio.run(ask_all(address)))
        assert httpx2.get(f"{address}/health").status_code == 200
        after = httpx2.post(f"{address}/v1/chat/completions", json=body)
    assert set(statuses) == {200, 429}
    assert statuses[200] >= 20
    assert after.status_code == 200
    assert engine.running == 0
    assert engine.most_running <= 4 * 8


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_takes_its_threads_along(
    served: ServedModel, engine: OracleEngine, stream: bool
) -> None:
    body = {"messages": CHAT, "max_tokens": 200, "stream": stream, "max_depth": 2}
    with slow_server(served, engine) as address:
        if stream:
            with httpx2.stream("POST", f"{address}/v1/chat/completions", json=body) as response:
                next(response.iter_lines())
        else:
            with pytest.raises(httpx2.ReadTimeout):
                httpx2.post(f"{address}/v1/chat/completions", json=body, timeout=0.4)
        begun = len(engine.asked)
        deadline = time.monotonic() + 5
        while engine.running and time.monotonic() < deadline:
            time.sleep(0.02)
    assert begun >= 1
    assert engine.running == 0
    assert engine.written < 190


def test_an_engine_that_fails_is_a_503_or_an_error_in_the_stream(served: ServedModel, engine: OracleEngine) -> None:
    engine.fails_behind = 3
    with running(create_app(Orchestrator(engine, served), served)) as address:
        client = client_of(address)
        with pytest.raises(openai.InternalServerError, match="the engine has failed"):
            client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=40)
        engine.written = 0
        with pytest.raises(openai.APIError, match="the engine has failed"):
            list(client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=40, stream=True))
        engine.closed = True
        assert httpx2.get(f"{address}/health").status_code == 503


@pytest.mark.parametrize("failure", [None, "fails", "breaks"])
def test_logs_tell_neither_prompts_nor_keys(
    served: ServedModel,
    engine: OracleEngine,
    failure: str | None,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG", logger="medusa_apar")
    if failure == "fails":
        engine.fails_behind = 3
    elif failure == "breaks":
        engine.garbage = 10_000
    body = {"messages": [{"role": "user", "content": "w61 w62"}], "max_tokens": 20}
    with running(create_app(Orchestrator(engine, served), served, api_keys=["key-of-a-client"]), "info") as address:
        for key in ("key-of-a-client", "another-key"):
            for sent in (body, {**body, "stream": True}, {**body, "tools": ["w61 w62"]}):
                headers = {"Authorization": f"Bearer {key}"}
                httpx2.post(f"{address}/v1/chat/completions", json=sent, headers=headers)
    logged = "".join(capfd.readouterr()) + caplog.text
    assert "POST /v1/chat/completions" in logged
    assert not [secret for secret in ("w61", "-key", "key-of") if secret in logged]


def test_the_page_gets_pieces_with_their_threads(address: str, model: MedusaAparModel, served: ServedModel) -> None:
    assert "<title>medusa-apar</title>" in httpx2.get(address).text
    response = httpx2.post(f"{address}/threads", json={"messages": CHAT, "max_tokens": 60})
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    last = json.loads(events[-2])
    assert (
        "".join(piece["text"] for piece in last["pieces"]).split()
        == served.text(chat_tokens(model, served, max_new_tokens=60)).split()
    )
    assert last["finish_reason"] in ("stop", "length")
    assert last["threads"] == 1 + max(piece["thread"] for piece in last["pieces"])


def test_closing_the_server_closes_the_engine(served: ServedModel, engine: OracleEngine) -> None:
    with running(create_app(Orchestrator(engine, served), served)):
        assert not engine.closed
    assert engine.closed


def test_a_stream_whose_client_goes_while_it_waits_gives_its_place_back(
    served: ServedModel, engine: OracleEngine
) -> None:
    body = {"messages": CHAT, "max_tokens": 200, "stream": True, "max_depth": 2}
    with slow_server(served, engine, running=1, waiting=1) as address:
        engine.pause = 1.0
        url = f"{address}/v1/chat/completions"
        with httpx2.stream("POST", url, json=body) as first:
            lines = first.iter_lines()  # as long as this is there, the client stays
            next(lines)
            for _ in range(3):  # each takes the only waiting place, and leaves it
                with pytest.raises(httpx2.ReadTimeout):
                    httpx2.post(url, json=body, timeout=0.2)
            deadline = time.monotonic() + 5
            while "requests_waiting 0.0" not in httpx2.get(f"{address}/metrics").text and time.monotonic() < deadline:
                time.sleep(0.02)
            assert "requests_waiting 0.0" in httpx2.get(f"{address}/metrics").text
            assert len({thread.answer for thread in engine.asked}) == 1, "nothing was written for those who left"


def test_an_unexpected_failure_is_an_error_in_openais_format(served: ServedModel, engine: OracleEngine) -> None:
    engine.stream = lambda request: 1 / 0  # type: ignore[assignment, method-assign]
    with running(create_app(Orchestrator(engine, served), served)) as address:
        url = f"{address}/v1/chat/completions"
        response = httpx2.post(url, json={"messages": CHAT, "max_tokens": 20})
        figures = httpx2.get(f"{address}/metrics").text
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "The server failed unexpectedly; its log says how."
    assert 'outcome="failed"} 1.0' in figures


def test_tokens_that_the_model_does_not_have_are_refused_in_any_prompt(
    served: ServedModel, engine: OracleEngine
) -> None:
    smaller = replace(served, vocab_size=20)
    with running(create_app(Orchestrator(engine, smaller), smaller)) as address:
        for prompt in ([5, 20], "w5 w20"):
            response = httpx2.post(f"{address}/v1/completions", json={"prompt": prompt})
            assert response.status_code == 400
            assert response.json()["error"]["message"] == "The prompt has token ids beyond 0 to 19."


def test_a_temperature_that_would_overflow_is_raised(served: ServedModel) -> None:
    sent = ChatBody.model_validate({"messages": CHAT, "temperature": 1e-40})
    assert sent.answer_requests(served, most_threads=8)[0].sampling.temperature == LEAST_TEMPERATURE
    greedy = ChatBody.model_validate({"messages": CHAT, "temperature": 0})
    assert greedy.answer_requests(served, most_threads=8)[0].sampling.temperature == 0


def test_the_stream_of_threads_knows_no_stop_strings(served: ServedModel, engine: OracleEngine) -> None:
    with running(create_app(Orchestrator(engine, served), served)) as address:
        response = httpx2.post(f"{address}/threads", json={"messages": CHAT, "stop": ["w9"]})
    assert response.status_code == 400
    assert "stop=['w9']" in response.json()["error"]["message"]


def test_an_answer_has_no_more_threads_than_the_server_allows(served: ServedModel) -> None:
    greedy = ChatBody.model_validate({"messages": CHAT, "max_threads": 12})
    assert greedy.answer_requests(served, most_threads=3)[0].max_threads == 3
    assert greedy.answer_requests(served, most_threads=16)[0].max_threads == 12


def test_a_body_that_does_not_arrive_is_given_up(served: ServedModel, engine: OracleEngine) -> None:
    app = create_app(Orchestrator(engine, served), served, ServerLimits(body_timeout=0.2))
    with running(app) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b'Content-Length: 100\r\n\r\n{"prompt": '
            )
            answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 408")
        assert httpx2.get(f"{address}/health").status_code == 200


def test_a_client_beyond_its_requests_is_told_to_come_again(served: ServedModel, engine: OracleEngine) -> None:
    engine.pause = 0.05
    app = create_app(Orchestrator(engine, served), served, ServerLimits(per_client=1))
    with running(app) as address:
        client = client_of(address)
        first = client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=60, stream=True)
        next(iter(first))
        with pytest.raises(openai.RateLimitError, match="1 requests running"):
            client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=1)
        first.close()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                assert client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=1).choices
                return
            except openai.RateLimitError:
                time.sleep(0.05)
        raise AssertionError("the place was not given back")
