"""Measurements on a running server: conversations, and load with faults."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import conversations, soak
from medusa_apar import MedusaAparModel
from medusa_apar.serving.engines.native import NativeAnswerer
from medusa_apar.serving.http.server import create_app
from medusa_apar.serving.served_model import ServedModel

from ..fixtures import TINY
from ..serving.http_server import running


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    model = MedusaAparModel.from_pretrained(TINY, dtype=torch.float64)  # answers are the same to the last token
    served = ServedModel.from_pretrained(str(TINY), "tiny")
    with running(create_app(NativeAnswerer(model, served), served)) as address:
        yield address


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    file = tmp_path / "questions.jsonl"
    turns = ["How do I sleep better?", "Why?"], ["What are the main causes of stress?", "And then?"]
    file.write_text(
        "".join(
            f'{{"question_id": {number}, "category": "life", "turns": ["{one}", "{two}"]}}\n'
            for number, (one, two) in enumerate(turns)
        )
    )
    return file


@pytest.mark.integration
def test_a_line_for_each_turn_of_each_server(address: str, asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"{address}/v1"
    conversations.main([url, url, "--questions", str(asked), "--max-new-tokens", "8", "--system-tokens", "100"])
    *_, first, second, again, last = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1:3] for line in (first, second, again, last)] == [["1", "2"], ["2", "2"]] * 2
    prompt, prefilled = (int(cell.replace(",", "")) for cell in again.split(" | ")[3:5])
    assert prefilled == 2 < prompt, "the last token of each prompt, for its logits"


def test_copies_of_an_answer_are_asked_for_together(
    address: str, asked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conversations.main([f"{address}/v1", "--questions", str(asked), "--max-new-tokens", "8", "--copies", "3"])
    assert [line.split(" | ")[1:3] for line in capsys.readouterr().out.splitlines()[2:]] == [["1", "2"], ["2", "2"]]


@pytest.mark.integration
def test_a_server_under_load_and_attack_loses_nothing(
    address: str, asked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = soak.main([address, "--questions", str(asked), "--burst", "30", "--seconds", "6", "--clients", "4"])
    out = capsys.readouterr().out
    assert "\n0 failures" in out, out
    assert not failed
    for kind in ("asked: 200", "left a stream: 200", "half-closed", "noise"):
        assert kind in out


def test_an_answer_that_differs_is_a_failure(address: str, asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = soak.Soak(address, soak.requests_of(str(asked))[:1])
    run.texts[0] = ["something else"]
    asyncio.run(run.run(burst=1, seconds=0, clients=1))
    assert "request 0 was answered in two ways" in run.failures
    capsys.readouterr()
