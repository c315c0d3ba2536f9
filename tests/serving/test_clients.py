"""What clients of OpenAI's interface send besides the plain request, and what they expect back."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx2
import openai
import pytest
import torch
from openai import OpenAI
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from transformers import PreTrainedModel

from medusa_apar import MedusaAparModel
from medusa_apar.sampling.openai_processors import AnswerPenalty, TokenBias
from medusa_apar.serving.engines.native import NativeAnswerer
from medusa_apar.serving.engines.orchestrator import Orchestrator
from medusa_apar.serving.http.bodies import ChatBody
from medusa_apar.serving.http.server import create_app
from medusa_apar.serving.http.together import together
from medusa_apar.serving.requests import AnswerRequest
from medusa_apar.serving.served_model import ServedModel

from .http_server import running
from .oracle_engine import OracleEngine
from .test_orchestrator import prompts
from .test_server import CHAT, client_of

ORIGIN = "https://chat.example"


@pytest.fixture(scope="module")
def address(model: MedusaAparModel, served: ServedModel) -> Iterator[str]:
    with running(
        create_app(NativeAnswerer(model, served), served, api_keys=["secret"], cors_origins=[ORIGIN])
    ) as address:
        yield address


@pytest.fixture
def client(address: str) -> OpenAI:
    return client_of(address, "secret")


def post(address: str, body: dict[str, Any], path: str = "/v1/chat/completions", **headers: str) -> Any:
    return httpx2.post(f"{address}{path}", json=body, headers={"Authorization": "Bearer secret", **headers})


NOTHING: dict[str, Any] = {
    "logprobs": False, "top_logprobs": 0, "logit_bias": {}, "presence_penalty": 0, "frequency_penalty": 0.0, "n": 1,
    "tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "functions": [], "function_call": "none",
    "response_format": {"type": "text"}, "modalities": ["text"], "reasoning_effort": "none", "store": False,
    "metadata": {"who": "me"}, "service_tier": "auto", "user": "someone", "stop": [], "verbosity": "medium",
    "prompt_cache_options": {"mode": "implicit"}, "prompt_cache_retention": "24h", "top_k": -1, "min_p": 0.0,
}  # fmt: skip


@pytest.mark.parametrize("name", NOTHING)
def test_a_field_that_asks_for_nothing_changes_nothing(served: ServedModel, name: str) -> None:
    plain = ChatBody.model_validate({"messages": CHAT, "seed": 1})
    asked = ChatBody.model_validate({"messages": CHAT, "seed": 1, name: NOTHING[name]})
    assert asked.answer_requests(served, 8) == plain.answer_requests(served, 8)


@pytest.mark.parametrize("name", sorted({*ChatBody.model_fields} - {"messages"}))
def test_a_null_is_a_field_that_was_left_out(served: ServedModel, name: str) -> None:
    plain = ChatBody.model_validate({"messages": CHAT})
    assert ChatBody.model_validate({"messages": CHAT, name: None}) == plain


ASKED: dict[str, Any] = {
    "tools": [{"type": "function"}], "tool_choice": "required",
    "functions": [{"name": "f"}], "modalities": ["audio"],
    "audio": {"voice": "alloy"}, "prediction": {"type": "content"}, "reasoning_effort": "high", "store": True,
    "web_search_options": {}, "moderation": {"model": "omni-moderation-latest"},
}  # fmt: skip


@pytest.mark.parametrize("name", ASKED)
def test_what_is_not_supported_is_named(address: str, name: str) -> None:
    response = post(address, {"messages": CHAT, name: ASKED[name]})
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["param"] == name
    assert error["message"].startswith(f"{name}: is not supported by this server; leave it out")


@pytest.mark.parametrize(
    ("body", "param", "code", "message"),
    [
        ({}, "messages", "missing_required_parameter", "messages: Field required."),
        ({"messages": CHAT, "colour": 1}, "colour", "unknown_parameter", "colour: Extra inputs"),
        ({"messages": CHAT, "temperature": 3}, "temperature", "invalid_value", "temperature: Input should be less"),
        ({"messages": CHAT, "logit_bias": {"999": 1}}, "logit_bias", "invalid_value", "the token id 999, beyond 0 to"),
        ({"messages": CHAT, "logit_bias": {"5": 101}}, "logit_bias.5", "invalid_value", "less than or equal to 100"),
        (
            {"messages": CHAT, "response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "invalid_value",
            "json_schema is missing",
        ),
        (
            {
                "messages": CHAT,
                "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "x"}}},
            },
            "response_format.json_schema.schema",
            "invalid_value",
            "this schema cannot be followed: ",
        ),
        (
            {"messages": CHAT, "response_format": {"type": "xml"}},
            "response_format.type",
            "invalid_value",
            "'json_object'",
        ),
        ({"messages": CHAT, "stream_options": {}}, "stream_options", "invalid_value", "is for streams"),
        ({"messages": [{"role": "user", "content": "w4 " * 300}]}, "messages", "context_length_exceeded", "301 tokens"),
        ([], None, "invalid_value", "The body: Input should be a valid dictionary"),
    ],
)
def test_errors_name_the_field_and_what_is_wrong(
    address: str, body: Any, param: str | None, code: str, message: str
) -> None:
    response = post(address, body)
    error = response.json()["error"]
    assert response.status_code == 400
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert message in error["message"]


def test_a_developer_is_the_system() -> None:
    body = ChatBody.model_validate({"messages": [{"role": "developer", "content": "w5 w6"}, *CHAT]})
    assert [message.as_template_takes_it()["role"] for message in body.messages] == ["system", "user"]


@pytest.mark.parametrize(
    ("message", "param", "error"),
    [
        ({"role": "banana", "content": "w4"}, "messages.0.role", "Input should be 'system', 'developer', 'user' or"),
        ({"role": "tool", "content": "w4"}, "messages.0.role", "(is 'tool')"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
            "messages.0.content",
            "has a part of type 'image_url', and the model reads text alone",
        ),
        ({"role": "user", "content": [{"type": "text"}]}, "messages.0.content", "of type 'text' without a string"),
        ({"role": "user", "content": ["w4"]}, "messages.0.content", "has a part of type None"),
        ({"role": "user"}, "messages.0.content", "Field required"),
        (
            {"role": "assistant", "content": "w4", "tool_calls": [{}]},
            "messages.0.tool_calls",
            "is not supported by this server",
        ),
    ],
)
def test_messages_that_the_model_cannot_read(address: str, message: dict[str, Any], param: str, error: str) -> None:
    response = post(address, {"messages": [message]})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert error in response.json()["error"]["message"]


def test_parts_of_text_are_joined(served: ServedModel) -> None:
    parts = [{"type": "text", "text": "w17 w9 w8 "}, {"type": "text", "text": "w33 w60"}]
    message = {"role": "user", "content": parts, "name": "me", "tool_calls": None}
    joined = ChatBody.model_validate({"messages": [message]})
    assert joined.prompts(served) == ChatBody.model_validate({"messages": CHAT}).prompts(served)


def test_answers_have_openais_types(address: str) -> None:
    asked = {"messages": CHAT, "max_tokens": 8}
    ChatCompletion.model_validate_json(post(address, asked).text, strict=True, extra="forbid")
    completion = post(address, {"prompt": "w4", "max_tokens": 8}, "/v1/completions").text
    Completion.model_validate_json(completion, strict=True, extra="forbid")


def test_chunks_have_openais_types(address: str) -> None:
    asked = {"messages": CHAT, "max_tokens": 8, "stream": True, "stream_options": {"include_usage": True}}
    events = [line.removeprefix("data: ") for line in post(address, asked).text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    chunks = [ChatCompletionChunk.model_validate_json(event, strict=True, extra="forbid") for event in events]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8


def test_n_answers_are_drawn_apart_and_each_again_with_its_seed(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": CHAT, "max_tokens": 20, "temperature": 1.5, "seed": 3}
    four = client.chat.completions.create(n=4, **asked)
    texts = [choice.message.content for choice in four.choices]
    assert [choice.index for choice in four.choices] == [0, 1, 2, 3]
    assert len(set(texts)) == 4
    assert four.usage is not None
    assert four.usage.prompt_tokens == 6
    assert 40 < four.usage.completion_tokens <= 80
    assert client.chat.completions.create(**asked).choices[0].message.content == texts[0]
    streamed = dict.fromkeys(range(4), "")
    ends = []
    for chunk in client.chat.completions.create(n=4, stream=True, **asked):
        (choice,) = chunk.choices
        streamed[choice.index] += choice.delta.content or ""
        ends += [choice.index] if choice.finish_reason else []
    assert list(streamed.values()) == texts
    assert sorted(ends) == [0, 1, 2, 3]


def test_usage_tells_what_of_a_prompt_was_computed_before(client: OpenAI) -> None:
    prompt = [token for each in prompts(40)[20:] for token in each]
    cached = []
    for _ in range(2):
        usage = client.completions.create(model="tiny", prompt=prompt, max_tokens=4).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        cached.append(usage.prompt_tokens_details.cached_tokens)
    assert cached == [0, len(prompt) - 1]


def test_several_prompts_are_answered_in_their_order(client: OpenAI) -> None:
    several = prompts(3)
    together = client.completions.create(model="tiny", prompt=several, n=2, max_tokens=12)
    alone = [client.completions.create(model="tiny", prompt=each, max_tokens=12) for each in several]
    texts = [choice.text for choice in together.choices]
    assert texts == [answer.choices[0].text for answer in alone for _ in range(2)]
    assert together.usage is not None
    assert together.usage.prompt_tokens == sum(map(len, several))


def test_a_bias_forbids_and_forces_tokens(client: OpenAI, served: ServedModel) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": prompts(1)[0], "max_tokens": 20}
    words = client.completions.create(**asked).choices[0].text.split()
    token = served.tokenizer(words[0])["input_ids"][-1]
    without = client.completions.create(logit_bias={str(token): -100}, **asked).choices[0].text.split()
    assert words[0] not in without != []
    assert client.completions.create(logit_bias={"30": 100}, **asked).choices[0].text.split() == ["w30"] * 20


def test_a_low_bias_of_forks_gives_the_answer_without_threads(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": prompts(1)[0], "max_tokens": 40}
    plain = client.completions.create(extra_body={"apar": False}, **asked).choices[0].text
    assert client.completions.create(**asked).choices[0].text != plain
    assert client.completions.create(extra_body={"fork_bias": -100}, **asked).choices[0].text == plain


def test_min_p_leaves_the_tokens_that_are_likely_enough(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": prompts(1)[0], "max_tokens": 20, "seed": 1}
    greedy = client.completions.create(temperature=0, **asked).choices[0].text
    assert client.completions.create(temperature=1.5, **asked).choices[0].text != greedy
    assert client.completions.create(temperature=1.5, extra_body={"min_p": 1.0}, **asked).choices[0].text == greedy


def test_penalties_are_of_the_answers_own_tokens(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": "w4 w9 w30", "max_tokens": 20, "extra_body": {"apar": False}}
    forced = client.completions.create(logit_bias={"30": 50}, presence_penalty=2, frequency_penalty=2, **asked)
    words = forced.choices[0].text.split()
    assert words[:5] == ["w30"] * 5, "the prompt does not count"
    plain = client.completions.create(**asked).choices[0].text.split()
    less = client.completions.create(frequency_penalty=2, presence_penalty=2, **asked).choices[0].text.split()
    assert max(Counter(less).values()) < max(Counter(plain).values())


def test_penalties_by_hand() -> None:
    scores = torch.zeros(1, 6)
    ids: Any = torch.tensor([[1, 2, 3, 3, 4]])
    penalised = AnswerPenalty(presence=0.5, frequency=0.25, prompt_length=2)(ids, scores)
    assert penalised.tolist() == [[0, 0, 0, -1.0, -0.75, 0]]
    assert TokenBias([(1, 2.0), (5, -3.0)])(ids, scores).tolist() == [[0, 2, 0, 0, 0, -3]]


def test_the_model_is_retrieved_by_its_name(client: OpenAI) -> None:
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="'other/model' does not exist") as raised:
        client.models.retrieve("other/model")
    assert raised.value.code == "model_not_found"


@pytest.mark.parametrize("key", ["Bearer secret", "bearer secret", "BEARER  secret"])
def test_a_bearer_in_any_case_comes_in(address: str, key: str) -> None:
    assert httpx2.get(f"{address}/v1/models", headers={"Authorization": key}).status_code == 200


@pytest.mark.parametrize("key", ["secret", "Basic secret", "Bearer", "Bearer wrong", ""])
def test_nobody_else_does(address: str, key: str) -> None:
    response = httpx2.get(f"{address}/v1/models", headers={"Authorization": key})
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_body_without_a_content_type_is_json(address: str) -> None:
    content = json.dumps({"messages": CHAT, "max_tokens": 2}).encode()
    headers = {"Authorization": "Bearer secret"}
    assert httpx2.post(f"{address}/v1/chat/completions", content=content, headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/v1/models", "/v1/models/tiny"])
def test_what_can_be_read_has_a_head(address: str, path: str) -> None:
    response = httpx2.head(f"{address}{path}", headers={"Authorization": "Bearer secret"})
    assert response.status_code == 200
    assert response.content == b""


def test_options_say_what_is_allowed(address: str) -> None:
    response = httpx2.options(f"{address}/v1/chat/completions")
    assert response.status_code == 204
    assert response.headers["allow"] == "POST, OPTIONS"
    assert httpx2.options(f"{address}/elsewhere").status_code == 404


def test_pages_of_a_known_origin_may_ask(address: str) -> None:
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    url = f"{address}/v1/chat/completions"
    known = httpx2.options(url, headers={"Origin": ORIGIN, **asking})
    assert known.status_code == 200
    assert known.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in known.headers["access-control-allow-headers"]
    answer = post(address, {"messages": CHAT, "max_tokens": 2}, Origin=ORIGIN)
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    refused = post(address, {}, Origin=ORIGIN)
    assert refused.headers["access-control-allow-origin"] == ORIGIN, "a page reads errors, too"
    other = httpx2.options(url, headers={"Origin": "https://other.example", **asking})
    assert "access-control-allow-origin" not in other.headers


def test_every_response_names_its_request(address: str) -> None:
    assert post(address, {}, **{"X-Request-ID": "mine-7"}).headers["x-request-id"] == "mine-7"
    one, other = (httpx2.get(f"{address}/health").headers["x-request-id"] for _ in range(2))
    assert one != other
    odd = httpx2.get(f"{address}/health", headers={"X-Request-ID": "a" * 200}).headers["x-request-id"]
    assert len(odd) == 32


def test_tokens_there_and_back(address: str, served: ServedModel) -> None:
    tokens = post(address, {"prompt": "w4 w9", "return_token_strs": True}, "/tokenize").json()
    assert tokens["tokens"] == served.tokenizer("w4 w9")["input_ids"]
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"])
    assert tokens["max_model_len"] == served.context_length
    assert post(address, {"tokens": tokens["tokens"]}, "/detokenize").json()["prompt"].strip() == "w4 w9"
    chat = post(address, {"messages": CHAT}, "/tokenize").json()
    assert chat["tokens"] == ChatBody.model_validate({"messages": CHAT}).prompts(served)[0]
    for path, body in (("/tokenize", {}), ("/tokenize", {"prompt": "w4", "messages": CHAT}), ("/detokenize", {})):
        assert post(address, body, path).status_code == 400
    assert "beyond 0 to" in post(address, {"tokens": [10**9]}, "/detokenize").json()["error"]["message"]


def test_several_answers_of_threads_on_an_engine(backbone: PreTrainedModel, served: ServedModel) -> None:
    with running(create_app(Orchestrator(OracleEngine(backbone), served), served)) as address:
        answer = client_of(address).chat.completions.create(model="tiny", messages=CHAT, n=3, max_tokens=20)
    assert len({choice.message.content for choice in answer.choices}) == 1, "greedy answers are the same"


@pytest.mark.parametrize(("name", "value"), [("response_format", {"type": "json_object"}), ("logprobs", True)])
def test_engines_that_see_no_scores_refuse_what_needs_them(
    backbone: PreTrainedModel, served: ServedModel, name: str, value: Any
) -> None:
    with running(create_app(Orchestrator(OracleEngine(backbone), served), served)) as address:
        refused = post(address, {"messages": CHAT, name: value})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == name


def logprobs_along(model: MedusaAparModel, prompt: Any, answer: list[int]) -> torch.Tensor:
    """The backbone's own, `[answer, vocabulary]`, read in one pass."""
    ids = torch.cat([prompt, torch.tensor([answer])], dim=1)
    with torch.no_grad():
        logits = model.backbone(ids).logits[0, prompt.shape[1] - 1 : -1]
    return logits.float().log_softmax(dim=-1)


def test_logprobs_are_the_backbones(client: OpenAI, model: MedusaAparModel, served: ServedModel) -> None:
    prompt: Any = torch.tensor([ChatBody.model_validate({"messages": CHAT}).prompts(served)[0]])
    answer = client.chat.completions.create(
        model="tiny", messages=CHAT, max_tokens=20, temperature=1.2, seed=5, frequency_penalty=1, logprobs=True,
        top_logprobs=3, extra_body={"apar": False},
    )  # fmt: skip
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.content is not None
    tokens = [served.tokenizer.convert_tokens_to_ids(each.token.strip()) for each in found.content]
    expected = logprobs_along(model, prompt, tokens)
    assert served.text(tokens) == answer.choices[0].message.content
    for row, token, each in zip(expected, tokens, found.content, strict=True):
        assert each.logprob == pytest.approx(float(row[token]), abs=1e-4)
        best = row.topk(3)
        assert [top.logprob for top in each.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert bytes(each.bytes or []).decode() == each.token


def test_logprobs_of_threads_are_along_their_paths(model: MedusaAparModel, served: ServedModel) -> None:
    prompt = ChatBody.model_validate({"messages": CHAT}).prompts(served)[0]
    output: Any = model.generate(torch.tensor([prompt]), max_depth=3, max_new_tokens=60, return_dict_in_generate=True)
    (tree,) = output.trees
    assert len(tree.threads) > 2
    expected = []
    for number, start, end in tree.nodes:
        ids = tree.threads[number].token_ids
        rows = logprobs_along(model, torch.tensor([ids[:1]]), ids[1:])
        expected += [float(rows[at - 1, ids[at]]) for at in range(start, end)]

    async def last() -> Any:
        answerer = NativeAnswerer(model, served)
        asked = AnswerRequest(prompt, 60, max_depth=3, logprobs=1)
        snapshots = [snapshot async for snapshot in answerer.answer(asked)]
        await answerer.close()
        return snapshots[-1]

    snapshot = asyncio.run(last())
    tokens = len(snapshot.readable)
    found = [each.logprob for each in snapshot.readable_logprobs]
    assert found == pytest.approx(expected[:tokens], abs=1e-4)


def test_streamed_logprobs_join_to_those_of_the_whole(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": CHAT, "max_tokens": 30, "logprobs": True, "top_logprobs": 1}
    whole = client.chat.completions.create(**asked).choices[0].logprobs
    assert whole is not None
    joined = []
    for chunk in client.chat.completions.create(stream=True, **asked):
        if chunk.choices[0].logprobs is not None:
            joined += chunk.choices[0].logprobs.content or []
    assert joined == whole.content


def test_completions_have_logprobs_of_their_own_kind(client: OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt=prompts(1)[0], max_tokens=9, logprobs=2).choices[0]
    found = answer.logprobs
    assert found is not None
    assert "".join(found.tokens or []).strip() == answer.text.strip()
    assert found.text_offset is not None
    assert found.text_offset[0] == 0
    assert len(found.tokens or []) == len(found.token_logprobs or []) == len(found.top_logprobs or [])


def test_top_logprobs_need_logprobs(address: str) -> None:
    refused = post(address, {"messages": CHAT, "top_logprobs": 2})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "top_logprobs"


def test_one_stream_that_fails_closes_the_others() -> None:
    closed = []

    async def count(name: str, fail_at: int) -> AsyncGenerator[int]:
        try:
            for number in range(1000):
                if number == fail_at:
                    raise ValueError(name)
                yield number
                await asyncio.sleep(0)
        finally:
            closed.append(name)

    async def read() -> list[tuple[int, int]]:
        return [item async for item in together([count("a", 1000), count("b", 3)])]

    with pytest.raises(ValueError, match="b"):
        asyncio.run(read())
    assert sorted(closed) == ["a", "b"]
