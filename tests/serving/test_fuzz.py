"""Bodies that nobody meant: whatever is sent, the server answers or says what is wrong, and loses nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medusa_apar import MedusaAparModel
from medusa_apar.serving.engines.native import NativeAnswerer
from medusa_apar.serving.http.bodies import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from medusa_apar.serving.http.server import create_app
from medusa_apar.serving.served_model import ServedModel

from .http_server import running

pytestmark = pytest.mark.fuzz

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "10000"))
"""Bodies for each test."""
FIELDS = {
    "/v1/chat/completions": ChatBody,
    "/threads": ChatBody,
    "/v1/completions": CompletionBody,
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
}
NUMBERS = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([10**6, 2**31, 2**63, 2**64, 10**30, -(10**30), 1e-40, 1e308, 0.5, -0.0]),
    st.floats(allow_nan=False, allow_infinity=False),
)
TEXTS = st.one_of(
    st.text(max_size=30), st.sampled_from(["w4 w9", "text", "user", "system", "[Fork]", "\0", "\ud7ff", "🙂"])
)
ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant", "developer", "tool"])},
        optional={"content": st.one_of(TEXTS, ANY), "name": ANY, "tool_calls": ANY},
    ),
    max_size=3,
)
MEANT: dict[str, st.SearchStrategy[Any]] = {
    "model": st.sampled_from(["tiny", "other"]),
    "messages": MESSAGES,
    "prompt": st.one_of(TEXTS, st.lists(st.integers(-1, 70), max_size=5), st.lists(TEXTS, max_size=3)),
    "tokens": st.lists(st.integers(-1, 70), max_size=5),
    "max_tokens": st.integers(1, 12),
    "n": st.integers(1, 3),
    "stop": st.one_of(TEXTS, st.lists(TEXTS, max_size=3)),
    "logit_bias": st.dictionaries(st.integers(-2, 70).map(str), NUMBERS, max_size=3),
    "response_format": st.one_of(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["text", "json_object", "json_schema"])}, optional={"json_schema": ANY}
        ),
        st.fixed_dictionaries(
            {"type": st.just("json_schema"), "json_schema": st.fixed_dictionaries({"name": TEXTS, "schema": ANY})}
        ),
    ),
    "stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans()}),
}
"""What comes near to a good request."""
SHORT = {"max_tokens": 8}


def bodies(path: str) -> st.SearchStrategy[dict[str, Any]]:
    fields = {name: st.one_of(MEANT.get(name, ANY), ANY) for name in FIELDS[path].model_fields}
    due = {
        name: fields.pop(name) for name in ("messages", "prompt", "tokens") if name in fields and path != "/tokenize"
    }
    return st.fixed_dictionaries(due, optional=fields)


@pytest.fixture(scope="module")
def address(model: MedusaAparModel, served: ServedModel) -> Iterator[str]:
    with running(create_app(NativeAnswerer(model, served), served)) as address:
        yield address
        good = httpx2.post(f"{address}/v1/completions", json={"prompt": "w4 w9", "max_tokens": 8}, timeout=60)
        assert good.status_code == 200
        figures = httpx2.get(f"{address}/metrics").text
        assert "medusa_apar_threads 0.0" in figures, "no thread is left"
        assert "medusa_apar_requests_waiting 0.0" in figures
        assert 'outcome="failed"' not in figures


def check(response: Any) -> None:
    assert response.status_code < 500 or response.status_code == 503, response.text
    if response.headers["content-type"].startswith("text/event-stream"):
        assert response.text.endswith("data: [DONE]\n\n")
        assert '"error"' not in response.text
    elif response.status_code != 200:
        error = response.json()["error"]
        assert error["message"]
        assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.timeout(0)
@pytest.mark.parametrize("path", FIELDS)
def test_any_body_is_answered_or_refused(address: str, path: str) -> None:
    with httpx2.Client(base_url=address, timeout=60) as client:

        @settings(max_examples=EXAMPLES // len(FIELDS), deadline=None, suppress_health_check=list(HealthCheck))
        @given(bodies(path))
        def post(body: dict[str, Any]) -> None:
            if "max_tokens" in FIELDS[path].model_fields:
                body = {**SHORT, **body}
            check(client.post(path, content=json.dumps(body).encode("utf-8", "surrogatepass")))

        post()


@pytest.mark.timeout(0)
def test_any_bytes_are_refused(address: str) -> None:
    with httpx2.Client(base_url=address, timeout=60) as client:

        @settings(max_examples=EXAMPLES // 10, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.binary(max_size=200), st.sampled_from([*FIELDS]))
        def post(content: bytes, path: str) -> None:
            check(client.post(path, content=content))

        post()
