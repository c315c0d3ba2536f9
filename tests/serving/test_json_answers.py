"""Answers that follow a JSON schema, whatever drafts them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from openai import OpenAI
from transformers import AutoTokenizer, LogitsProcessorList

from medusa_apar import MedusaAparModel
from medusa_apar.sampling.grammar import GrammarProcessor, json_grammar
from medusa_apar.serving.engines.native import NativeAnswerer
from medusa_apar.serving.http.server import create_app
from medusa_apar.serving.served_model import ServedModel

from ..fixtures import TINY
from .http_server import running
from .test_server import client_of

PROMPT: Any = [{"role": "user", "content": "What are the most common causes of stress?"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Rome", "Oslo"]},
        "people": {"type": "integer", "minimum": 0, "maximum": 9999},
        "tags": {"type": "array", "items": {"enum": ["old", "cold"]}, "maxItems": 3},
    },
    "required": ["city", "people", "tags"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}


@pytest.fixture(scope="module")
def model() -> MedusaAparModel:
    return MedusaAparModel.from_pretrained(TINY, dtype=torch.float32)


@pytest.fixture(scope="module")
def client(model: MedusaAparModel) -> Iterator[OpenAI]:
    served = ServedModel.from_pretrained(TINY, "tiny")
    with running(create_app(NativeAnswerer(model, served), served)) as address:
        yield client_of(address)


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_an_answer_follows_its_schema(client: OpenAI, temperature: float) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=PROMPT, max_tokens=200, n=8, seed=1, temperature=temperature, response_format=FORMAT
    )
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        found = json.loads(choice.message.content or "")
        assert list(found) == ["city", "people", "tags"]
        assert found["city"] in ("Rome", "Oslo")
        assert 0 <= found["people"] <= 9999
        assert set(found["tags"]) <= {"old", "cold"}


def test_any_object_will_do(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=PROMPT,
        max_tokens=60,
        temperature=1,
        n=4,
        seed=2,
        response_format={"type": "json_object"},
    )
    for choice in answer.choices:
        text = choice.message.content or ""
        assert text.lstrip().startswith("{")
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(text), dict)


def test_drafts_change_nothing(model: MedusaAparModel) -> None:
    """The oracle asks about one token at a time."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    prompt: Any = tokenizer.apply_chat_template(PROMPT, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    length, size = prompt.shape[1], model.config.vocab_size
    ends = (model.config.eos_token_id,)

    def processor() -> GrammarProcessor:
        return GrammarProcessor(json_grammar(SCHEMA), tokenizer, size, ends, length)

    ids, slow = prompt, processor()
    with torch.no_grad():
        while ids.shape[1] < length + 80 and ids[0, -1] not in ends:
            scores = slow(ids, model.backbone(ids).logits[:, -1].float())
            ids = torch.cat([ids, scores.argmax(dim=-1, keepdim=True)], dim=1)
    for options in ({}, {"ngrams": False}, {"medusa": False, "ngrams": False}, {"nodes_per_step": 24}):
        answer: Any = model.generate(
            prompt,
            apar=False,
            do_sample=False,
            max_new_tokens=80,
            logits_processor=LogitsProcessorList([processor()]),
            **options,
        )
        assert torch.equal(answer, ids), options


def test_a_state_that_was_dropped_is_read_again(model: MedusaAparModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medusa_apar.sampling.grammar._STATES", 1)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    size = model.config.vocab_size
    processor = GrammarProcessor(json_grammar(SCHEMA), tokenizer, size, (model.config.eos_token_id,), 0)
    ids = tokenizer('{"city": "Rome", "people": 12, "tags": ["old"]}')["input_ids"]
    masks = [processor(torch.tensor([ids[:at]]), torch.zeros(1, size)) for at in range(len(ids))]  # type: ignore[arg-type]
    for at in reversed(range(len(ids))):
        assert torch.equal(masks[at], processor(torch.tensor([ids[:at]]), torch.zeros(1, size)))  # type: ignore[arg-type]
        assert masks[at][0, ids[at]] == 0


def test_a_schema_that_is_none() -> None:
    with pytest.raises(ValueError, match="banana"):
        json_grammar({"type": "banana"})
