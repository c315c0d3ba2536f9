"""llama.cpp beside the modes, with a stand-in for Node.js."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from medusa_apar.eval.decoding.baselines import BaselineOptions
from medusa_apar.eval.decoding.decode import Limits, decode
from medusa_apar.eval.decoding.peers import Peer, Peers, Worker
from medusa_apar.eval.speed import command as speed

from ..scripted_model import ALL_MODES, ScriptedModel

Command = Callable[..., int]
QUESTION = '{"question_id": 1, "category": "math", "turns": ["One?"]}'
STAND_IN = """#!{python}
import json, sys
flags, (gguf, threads, lookup, context) = sys.argv[1:-4], sys.argv[-4:]
assert flags[0] == "--input-type=module" and "node-llama-cpp" in flags[2], flags
print("{{}}", flush=True)
for number, line in enumerate(sys.stdin):
    asked = json.loads(line)
    tokens = ([int(threads), int(lookup == "true")] + asked["prompt"] * 9)[: asked["max_new_tokens"]]
    seconds = 0.1 if threads == "1" and number == 0 else 3.0 / int(threads)  # one of its trials is lucky
    answer = {{"tokens": tokens, "steps": len(tokens), "seconds": seconds, "first_token_seconds": 0.5, "memory": 2**20}}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    return file


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that stands in for Node.js with llama.cpp."""
    program = tmp_path / "bin" / "node"
    program.parent.mkdir()
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    return program


@pytest.mark.usefixtures("node")
def test_a_peer_answers_the_same_prompt_with_its_fastest_number_of_threads(
    model: ScriptedModel, gguf: Path, tmp_path: Path
) -> None:
    options = BaselineOptions(peers=Peers(tmp_path, gguf))
    prompt = torch.tensor([[7, 8, 9]])
    for peer, looks_up in ((Peer.LLAMA_CPP, 0), (Peer.LOOKUP, 1)):
        answer = decode(model, peer, prompt, Limits(max_new_tokens=5), baselines=options)
        assert answer.token_ids == [4, looks_up, 7, 8, 9]
        assert answer.stats.answer_tokens == answer.stats.steps == 5
        assert (answer.seconds, answer.stats.first_token_seconds, answer.memory) == (0.75, 0.5, 2**20)
    options.close()


@pytest.fixture
def command(model: ScriptedModel, eval_command: Callable[..., Command]) -> Command:
    """Runs `eval speed` on one question."""
    return eval_command("speed", speed, model, [QUESTION], "--max-new-tokens", "8")


@pytest.mark.usefixtures("node")
def test_it_stands_beside_the_modes(command: Command, gguf: Path, tmp_path: Path) -> None:
    assert command("--peers", "llama.cpp", "--llama-cpp", str(tmp_path), "--gguf", str(gguf)) == 0
    lines = (tmp_path / "out" / "turns.jsonl").read_text().splitlines()
    assert [json.loads(line)["mode"] for line in lines] == ["generate", "llama.cpp", "llama-lookup", *ALL_MODES[1:]]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    overall = {row["mode"]: row for row in summary["tables"]["Speed"] if row["category"] == "overall"}
    assert overall["llama.cpp"]["tokens/s"] == pytest.approx(8 / 0.75)
    assert overall["llama.cpp"]["first"] == 500
    assert overall["llama.cpp"]["MB"] == pytest.approx(1.05, abs=0.01)


def test_sampling_is_refused(command: Command, refusal: Callable[..., str]) -> None:
    message = "peers='llama.cpp' decodes greedily; leave --sample or --peers out"
    assert message in refusal(command, "--peers", "llama.cpp", "--sample")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--peers", "llama.cpp", "--model", "mine"), "peers='llama.cpp' needs the GGUF file of model='mine'"),
        (("--gguf", "a.gguf"), "gguf='a.gguf' is for llama.cpp; add --peers llama.cpp, or leave --gguf out"),
    ],
)
def test_a_file_of_another_model_is_not_taken(
    command: Command, refusal: Callable[..., str], arguments: tuple[str, ...], message: str
) -> None:
    assert message in refusal(command, *arguments)


def test_what_is_missing_is_named(
    model: ScriptedModel, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"mode='llama.cpp' needs llama.cpp; add --peers llama.cpp"):
        decode(model, Peer.LLAMA_CPP, torch.tensor([[7]]), Limits(max_new_tokens=5))
    with pytest.raises(FileNotFoundError, match=r"none.gguf' is no file; name the model's GGUF file with --gguf"):
        Worker(Peer.LLAMA_CPP, 1, tmp_path, tmp_path / "none.gguf")
    program = tmp_path / "node"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ChildProcessError, match=f"ended with status 3.*run `npm install node-llama-cpp` in {tmp_path}"):
        Worker(Peer.LLAMA_CPP, 1, tmp_path, gguf)
    program.unlink()
    with pytest.raises(FileNotFoundError, match="needs Node"):
        Worker(Peer.LLAMA_CPP, 1, tmp_path, gguf)
