"""Threads as requests of vLLM; `make test-serving` runs this beside vLLM."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import torch
from openai import OpenAI

from medusa_apar import MedusaAparModel
from medusa_apar.cli import main
from medusa_apar.eval.cli import main as measure
from medusa_apar.eval.measurement.question_sets import load_questions
from medusa_apar.serving.engines.fleet import Fleet
from medusa_apar.serving.engines.orchestrator import Orchestrator
from medusa_apar.serving.engines.text_engine import EngineError
from medusa_apar.serving.requests import AnswerRequest
from medusa_apar.serving.served_model import ServedModel
from medusa_apar.serving.snapshots import Snapshot

from ..fixtures import QUESTIONS, TINY
from ..oracle import TIE
from .server_process import serving
from .vllm_server import NAME, VllmServer

pytestmark = pytest.mark.vllm

LIMIT = 200


@pytest.fixture(scope="module")
def served() -> ServedModel:
    return ServedModel.from_pretrained(TINY, NAME)


@pytest.fixture(scope="module")
def model() -> MedusaAparModel:
    return MedusaAparModel.from_pretrained(TINY, dtype=torch.float32)


def requests(served: ServedModel, count: int) -> list[AnswerRequest]:
    found = []
    for question in load_questions(str(QUESTIONS))[:count]:
        chat = [{"role": "user", "content": question.turns[0]}]
        prompt: Any = served.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)
        found.append(AnswerRequest(prompt["input_ids"], LIMIT, max_depth=served.max_depth))
    return found


def check_is_generates(model: MedusaAparModel, request: AnswerRequest, answer: Snapshot) -> None:
    """Equal, or parted at a tie: two ways of computing the same float32 logits may order those otherwise."""
    prompt = torch.tensor([request.prompt_token_ids])
    output: Any = model.generate(
        prompt, max_new_tokens=LIMIT, max_depth=request.max_depth, return_dict_in_generate=True
    )
    expected = output.sequences[0, prompt.shape[1] :].tolist()
    if answer.readable == expected:
        return
    parted = next(at for at, (a, b) in enumerate(zip(answer.readable, expected, strict=False)) if a != b)
    tree = output.trees[0]
    for thread, start, end in tree.nodes:
        if parted < end - start:
            context = torch.tensor([tree.threads[thread].token_ids[: start + parted]])
            best = model.backbone(context).logits[0, -1].topk(2).values
            assert best[0] - best[1] < TIE, f"answers part at token {parted}, and not at a tie"
            return
        parted -= end - start


@pytest.mark.parametrize("with_heads", [False, True])
def test_answers_of_vllm_in_this_process_are_those_of_generate(
    model: MedusaAparModel, served: ServedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, with_heads: bool
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")  # torch's threads do not survive a fork
    from medusa_apar.serving.engines.vllm_engine import VllmEngine, speculative_config

    asked = requests(served, 8)
    options = {}
    if with_heads:
        main(["heads", "export", str(TINY / "medusa"), "--format", "vllm", "--output_dir", str(tmp_path)])
        options["speculative_config"] = speculative_config(str(tmp_path), 4)

    async def run() -> list[Snapshot]:
        engine = VllmEngine(str(TINY), dtype="float32", max_model_len=512, block_size=32, enforce_eager=True, **options)
        orchestrator = Orchestrator(engine, served)

        async def last(request: AnswerRequest) -> Snapshot:
            return [snapshot async for snapshot in orchestrator.answer(request)][-1]

        try:
            alone = await last(asked[0])
            together = await asyncio.gather(*(last(request) for request in asked))
            cancelled = orchestrator.answer(asked[1])
            await anext(cancelled)
            await cancelled.aclose()
            await orchestrator.check()
            for _ in range(100):
                if not engine.llm.output_processor.has_unfinished_requests():
                    break
                await asyncio.sleep(0.05)
            assert not engine.llm.output_processor.has_unfinished_requests(), "a closed answer is aborted"
            assert alone.readable == together[0].readable
        finally:
            await engine.close()
        return together

    found = asyncio.run(run())
    assert sum(answer.threads for answer in found) > 2 * len(found), "they fork"
    for request, answer in zip(asked, found, strict=True):
        check_is_generates(model, request, answer)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[VllmServer]]:
    started = [VllmServer.start(tmp_path, f"server-{number}") for number in (1, 2)]
    try:
        for server in started:
            server.wait()
        yield started
    finally:
        for server in started:
            server.kill()


def test_when_one_of_two_servers_is_killed_every_request_ends(
    servers: list[VllmServer], model: MedusaAparModel, served: ServedModel
) -> None:
    """Threads of the dead server are opened again on the other one; with both dead there is an error."""
    asked = requests(served, 16)

    async def run() -> list[Snapshot]:
        fleet = Fleet.at([server.url for server in servers], NAME, timeout=20.0)
        orchestrator = Orchestrator(fleet, served)
        begun = 0

        async def last(request: AnswerRequest) -> Snapshot:
            nonlocal begun
            async for snapshot in orchestrator.answer(request):
                begun += snapshot.tokens > 0
            return snapshot

        writing = [asyncio.create_task(last(request)) for request in asked]
        while begun < 8 or any(not replica.running for replica in fleet.replicas):
            assert not any(task.done() for task in writing), "the load ended before the server was killed"
            await asyncio.sleep(0.01)
        servers[0].kill()
        killed = time.monotonic()
        found = await asyncio.wait_for(asyncio.gather(*writing), timeout=120)
        assert fleet.replicas[0].failed_at is not None
        assert fleet.replicas[0].failed_at >= killed - 1, "it died in the middle of the load"
        servers[1].kill()
        with pytest.raises(EngineError, match="none of the replicas answers"):
            await asyncio.wait_for(last(asked[0]), timeout=30)
        assert [replica.running for replica in fleet.replicas] == [0, 0]
        await orchestrator.close()
        return found

    for request, answer in zip(asked, asyncio.run(run()), strict=True):
        assert answer.finish_reason is not None
        check_is_generates(model, request, answer)


@pytest.mark.parametrize("engine", ["vllm", "http"])
def test_the_server_command_answers_as_generate_does(
    engine: str, model: MedusaAparModel, served: ServedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    question: Any = [{"role": "user", "content": load_questions(str(QUESTIONS))[1].turns[0]}]
    with ExitStack() as started:
        options = ["--model", str(TINY), "--served-model-name", NAME, "--engine", engine, "--dtype", "float32"]
        if engine == "vllm":
            options += ["--max-model-len", "512"]
        else:
            behind = VllmServer.start(tmp_path, "behind", "--scheduling-policy", "priority")
            started.callback(behind.kill)
            behind.wait()
            options += ["--url", behind.url, "--url-model", NAME, "--url-priorities"]
        _, address = started.enter_context(serving(*options))
        client = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120)
        answer = client.chat.completions.create(model=NAME, messages=question, max_tokens=LIMIT)
        stream = client.chat.completions.create(model=NAME, messages=question, max_tokens=LIMIT, stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        metrics = httpx2.get(f"{address}/metrics").text
        assert httpx2.get(f"{address}/health").status_code == 200
    assert streamed == answer.choices[0].message.content
    request = requests(served, 2)[1]
    tokens = model.generate(torch.tensor([request.prompt_token_ids]), max_new_tokens=LIMIT, max_depth=request.max_depth)
    assert streamed == served.text(tokens[0, len(request.prompt_token_ids) :].tolist())  # type: ignore[index]
    assert 'medusa_apar_requests_total{outcome="finished"} 2.0' in metrics
    if engine == "vllm":
        hits = re.search(r"^vllm:prefix_cache_hits_total\{.*\} (.*)$", metrics, re.MULTILINE)
        assert hits is not None
        assert float(hits[1]) > 0, "children find their parent's blocks"


async def _to_its_end(answer: AsyncIterator[Snapshot]) -> None:
    async for _ in answer:
        pass


def test_an_engine_that_dies_ends_answers_with_an_error(served: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
    from medusa_apar.serving.engines.vllm_engine import VllmEngine

    async def run() -> None:
        engine = VllmEngine(str(TINY), dtype="float32", max_model_len=512, block_size=32, enforce_eager=True)
        orchestrator = Orchestrator(engine, served)
        try:
            answer = orchestrator.answer(requests(served, 1)[0])
            await anext(answer)
            for process in psutil.Process().children(recursive=True):
                if process.cmdline() and process.cmdline()[0].startswith("VLLM::"):
                    process.kill()
            with pytest.raises(EngineError, match="vLLM has failed"):
                await asyncio.wait_for(_to_its_end(answer), timeout=60)
            with pytest.raises(EngineError, match="vLLM's engine is dead"):
                await orchestrator.check()
        finally:
            await engine.close()

    asyncio.run(run())


def test_loads_are_measured_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
    command = ["serving", "--model", str(TINY), "--requests", "4", "--arrivals", "closed:2", "--kv-blocks", "64",
               "--rounds", "1", "--max-new-tokens", "96", "--output_dir", str(tmp_path)]  # fmt: skip
    assert measure(command) == 0
    measured = (tmp_path / "loads.jsonl").read_bytes()
    loads = {load["mode"]: load for load in map(json.loads, measured.splitlines())}
    assert set(loads) == {"ar", "apar"}
    for load in loads.values():
        assert (len(load["latencies"]), load["errors"], load["requests_left"]) == (4, [], 0)
        assert 0 < max(load["kv_usage"]) <= 1
        assert min(load["memory_mib"]) > 100
    assert sum(loads["apar"]["threads"]) > 4
    assert loads["apar"]["prefix_hit_rate"] > 0.2
    assert measure(command) == 0
    assert (tmp_path / "loads.jsonl").read_bytes() == measured, "what is finished is not measured again"
