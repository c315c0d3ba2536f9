"""`medusa-apar serve` as a process, and the arguments that it refuses."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from openai import OpenAI
from transformers import AutoConfig, AutoTokenizer, Gemma3Config, GenerationConfig

from medusa_apar import MedusaAparModel
from medusa_apar.cli import main
from medusa_apar.serving import command
from medusa_apar.serving.engines.fleet import Fleet
from medusa_apar.serving.engines.orchestrator import Orchestrator
from medusa_apar.serving.requests import AnswerRequest, Sampling
from medusa_apar.serving.served_model import ServedModel

from ..fixtures import TINY
from ..runner.test_compilation import CountingBackend
from .server_process import serving
from .test_orchestrator import answers


@pytest.fixture(scope="module")
def process() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The server with the tiny model, and its address."""
    with serving(
        "--model", str(TINY), "--served-model-name", "tiny", "--dtype", "float32", MEDUSA_APAR_API_KEY="another,secret"
    ) as started:
        yield started


@pytest.mark.integration
def test_it_answers_in_threads_and_ends_what_it_has_begun_before_it_stops(
    process: tuple[subprocess.Popen[bytes], str],
) -> None:
    server, address = process
    client = OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0)
    assert client.models.list().data[0].id == "tiny"
    question = [{"role": "user", "content": "What are the main causes of stress?"}]
    texts: list[str | None] = []

    def ask() -> None:
        answer = client.chat.completions.create(model="tiny", messages=question, max_tokens=300)  # type: ignore[arg-type]
        texts.append(answer.choices[0].message.content)

    ask()
    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.1)
    server.send_signal(signal.SIGTERM)
    asking.join()
    assert server.wait(timeout=30) in (0, -signal.SIGTERM)
    assert texts[0] == texts[1]
    assert texts[0]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--engine", "http"], "--engine http with 0 --url: --engine http takes one or more"),
        (["--url", "http://one/v1"], "--engine native with 1 --url: --engine http takes one or more"),
        (["--model", "/no/such/folder"], "/no/such/folder"),
        (["--max-threads", "0"], "argument --max-threads: 0 is less than 1"),
        (["--max-waiting", "-1"], "argument --max-waiting: -1 is less than 0"),
    ],
)
def test_wrong_arguments(arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", *arguments])
    assert error in capsys.readouterr().err


def saved(folder: Path, generation: GenerationConfig, **config: object) -> Path:
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    loaded = AutoConfig.from_pretrained(TINY)
    loaded.update(config)
    loaded.save_pretrained(folder)
    generation.save_pretrained(folder)
    return folder


def test_a_model_samples_as_its_files_say(tmp_path: Path) -> None:
    sampled = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9, top_k=20, min_p=0.05, eos_token_id=[1, 2])
    model = ServedModel.from_pretrained(saved(tmp_path / "sampled", sampled), "model")
    assert model.sampling == Sampling(0.6, 0.9, 20, 0.05)
    assert model.eos_token_ids == (1, 2)
    left_out = ServedModel.from_pretrained(
        saved(tmp_path / "left out", GenerationConfig(do_sample=True, eos_token_id=1))
    )
    assert left_out.sampling == Sampling(1.0, 1.0, 50), "as `generate` has it"
    greedy = GenerationConfig(repetition_penalty=1.2, eos_token_id=1)
    assert ServedModel.from_pretrained(saved(tmp_path / "greedy", greedy)).sampling == Sampling(repetition_penalty=1.2)


def test_a_model_that_names_no_end_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, GenerationConfig(), eos_token_id=None)
    with pytest.raises(ValueError, match="names no eos_token_id; record it in its"):
        ServedModel.from_pretrained(folder)


def test_a_model_whose_control_tokens_are_none_of_its_own_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, GenerationConfig(eos_token_id=1), fork_token_id=2048)
    with pytest.raises(ValueError, match="fork_token_id=2048 is none of the backbone's 2048 tokens"):
        ServedModel.from_pretrained(folder)


def test_what_is_not_served_of_a_generation_config_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = GenerationConfig(do_sample=True, eta_cutoff=0.1, typical_p=1.0, min_new_tokens=5, eos_token_id=1)
    ServedModel.from_pretrained(saved(tmp_path, config))
    assert "generation_config.json: eta_cutoff=0.1 is not served" in caplog.text
    assert "min_new_tokens=5 is not served" in caplog.text
    assert len(caplog.records) == 2, "what asks for nothing is not worth a line"


def test_a_model_of_text_and_images_is_served_as_the_text_model_that_it_holds(tmp_path: Path) -> None:
    text = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "max_position_embeddings": 128}
    Gemma3Config(text_config=text, eos_token_id=1).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(tmp_path)
    assert ServedModel.from_pretrained(tmp_path).context_length == 128


@pytest.mark.parametrize(("given", "expected"), [(None, 2048), (512, 512), (10_000, 2048)])
def test_an_engine_may_take_less_than_the_model(given: int | None, expected: int) -> None:
    assert ServedModel.from_pretrained(TINY, max_length=given).context_length == expected


def test_options_reach_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    engine = SimpleNamespace(
        VllmEngine=lambda model, **options: given.update(options),
        speculative_config=lambda heads, tokens: (heads, tokens),
    )
    monkeypatch.setitem(sys.modules, "medusa_apar.serving.engines.vllm_engine", engine)
    arguments = command._parser().parse_args(
        ["--model", str(TINY), "--engine", "vllm", "--dtype", "float32", "--tensor-parallel-size", "16",
         "--block-size", "64", "--distributed-executor-backend", "ray",
         "--speculative-heads", "heads", "--speculative-tokens", "3"]
    )  # fmt: skip
    command.answerer_of(arguments, ServedModel.from_pretrained(TINY))
    assert given == {
        "dtype": torch.float32, "max_model_len": None, "block_size": 64, "tensor_parallel_size": 16,
        "distributed_executor_backend": "ray", "speculative_config": ("heads", 3),
    }  # fmt: skip


@pytest.mark.integration
def test_no_client_waits_for_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, compile_ = CountingBackend(), MedusaAparModel.compile
    monkeypatch.setattr(MedusaAparModel, "compile", lambda self: compile_(self, backend=backend))
    arguments = command._parser().parse_args(["--model", str(TINY), "--dtype", "float32", "--compile"])
    answerer = command.answerer_of(arguments, ServedModel.from_pretrained(TINY))
    graphs = backend.graphs
    assert graphs > 0
    requests = [AnswerRequest([7] * length, 20, max_depth=2) for length in (3, 9, 4, 8, 5)]
    assert all(answer.finish_reason for answer in answers(answerer, *requests))
    assert backend.graphs == graphs
    asyncio.run(answerer.close())


def test_a_fleets_key_reaches_its_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDUSA_APAR_URL_API_KEY", "secret")
    arguments = command._parser().parse_args(["--engine", "http", "--url", "http://one/v1"])
    answerer = command.answerer_of(arguments, ServedModel.from_pretrained(TINY))
    assert isinstance(answerer, Orchestrator)
    assert isinstance(answerer.engine, Fleet)
    assert answerer.engine.replicas[0].client.api_key == "secret"


def test_an_adapter_is_served_as_what_it_makes_of_its_base(tmp_path: Path) -> None:
    folder = saved(tmp_path, GenerationConfig(eos_token_id=1))
    (folder / "config.json").rename(folder / "backbone_config.json")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/base"}')
    served, plain = ServedModel.from_pretrained(folder), ServedModel.from_pretrained(TINY)
    assert (served.control, served.vocab_size, served.max_depth) == (plain.control, plain.vocab_size, plain.max_depth)


def test_an_adapter_that_says_nothing_of_its_backbone_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, GenerationConfig(eos_token_id=1))
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/base"}')
    with pytest.raises(ValueError, match=r"is an adapter without backbone_config\.json; serve the merged model"):
        ServedModel.from_pretrained(folder)


def test_vllm_takes_no_adapter(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/base"}')
    arguments = command._parser().parse_args(["--engine", "vllm", "--model", str(tmp_path)])
    with pytest.raises(ValueError, match=r"--engine vllm: --model .* is an adapter; give the merged model"):
        command.answerer_of(arguments, ServedModel.from_pretrained(TINY))
