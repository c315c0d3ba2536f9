"""`medusa-apar tune`: from a chat model to one that forks and drafts, with nothing but its own words."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from medusa_apar import MedusaAparModel
from medusa_apar.cli import main
from medusa_apar.train.tune.pipeline import STAGES

pytestmark = pytest.mark.integration

SIZES = ["--questions", "40", "--budget-hours", "0.1", "--max_new_tokens", "128", "--max_length", "384",
         "--draft_vocab_size", "256"]  # fmt: skip


def command(model: Path, output: Path, *more: str) -> list[str]:
    return ["tune", str(model), "--output_dir", str(output), *SIZES, *more]


def progress_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "work" / "progress.json").read_text())
    return values


@pytest.fixture(scope="module")
def tuned(asking_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tuned in one go."""
    folder = tmp_path_factory.mktemp("tuned")
    main(command(asking_model, folder))
    return folder


def test_the_result_forks_and_drafts(tuned: Path) -> None:
    model = MedusaAparModel.from_pretrained(tuned, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tuned)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Which tall herons sing?"}],
        add_generation_prompt=True, return_tensors="pt", return_dict=True,
    )  # fmt: skip
    output: Any = model.generate(inputs["input_ids"], max_new_tokens=128, return_dict_in_generate=True, do_sample=False)
    assert output.stats.forks >= 2
    assert output.stats.tokens_per_step > 2
    flat: Any = model.generate(inputs["input_ids"], max_new_tokens=128, apar=False, do_sample=False)
    text = tokenizer.decode(flat[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert "before the sun" in text, "an answer without forks has its details too"


def test_every_stage_is_finished_and_timed(tuned: Path) -> None:
    progress = progress_of(tuned)
    assert progress["finished"] == list(STAGES)
    assert all(progress["seconds"][stage] > 0 for stage in STAGES)
    assert sum(progress["seconds"].values()) < 360


def test_the_card_has_all_figures(tuned: Path, asking_model: Path) -> None:
    card = (tuned / "README.md").read_text()
    assert f"base_model: {asking_model}" in card
    for mode in ("generate", "ar", "medusa", "apar", "medusa-apar", "untuned model"):
        assert f"| {mode} |" in card
    for figure in (
        "tokens per step",
        "x generate",
        "nats/token",
        "structured 100%, plain 0%",
        "fork recall",
        "top-1 accuracy",
    ):
        assert figure in card


def test_nothing_held_out_is_trained_on(tuned: Path) -> None:
    parts = [
        {json.loads(line)["messages"][0]["content"] for line in (tuned / "work" / name).read_text().splitlines()}
        for name in ("train.jsonl", "held-out.jsonl")
    ]
    assert len(parts[1]) >= 4
    assert not parts[0] & parts[1]


def test_a_finished_tuning_is_not_done_again(
    tuned: Path, asking_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = progress_of(tuned)
    main(command(asking_model, tuned))
    assert progress_of(tuned) == before
    output = capsys.readouterr().out
    assert "$ medusa-apar" not in output
    assert f"medusa-apar generate 'Your question' --model {tuned}" in output


def test_another_tuning_is_refused_the_folder(
    tuned: Path, asking_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main(command(asking_model, tuned, "--lora_rank", "4"))
    assert error.value.code == 2
    assert "holds a tuning with lora_rank=16, not 4; remove the folder, or choose another" in capsys.readouterr().err


def _lines(path: Path) -> bool:
    return path.exists() and path.read_bytes().count(b"\n") >= 1


INTERRUPTED: dict[str, Callable[[Path], bool]] = {
    "questions": lambda work: _lines(work / "questions.samples.jsonl"),
    "answers": lambda work: _lines(work / "answers.made.jsonl"),
    "backbone": lambda work: any((work / "backbone").glob("checkpoint-*/trainer_state.json")),
    "heads": lambda work: any((work / "heads").glob("checkpoint-*/trainer_state.json")),
    "measurement": lambda work: _lines(work / "measured" / "speed-tuned" / "turns.jsonl"),
}
"""When a stage is in its midst."""


def test_killed_in_every_stage_it_goes_on(tuned: Path, asking_model: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "medusa_apar.cli", *command(asking_model, tmp_path)]
    for stage, is_amid in INTERRUPTED.items():
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            while not is_amid(tmp_path / "work"):
                assert process.poll() is None, f"ended before {stage}: {process.stderr.read()!r}"  # type: ignore[union-attr]
                time.sleep(0.01)
            process.kill()
        assert stage not in progress_of(tmp_path)["finished"]
    subprocess.run(argv, check=True, capture_output=True)
    assert progress_of(tmp_path)["finished"] == list(STAGES)
    for name in ("questions.jsonl", "answers.jsonl", "train.jsonl", "held-out.jsonl"):
        assert (tmp_path / "work" / name).read_bytes() == (tuned / "work" / name).read_bytes(), name
    adapters = [load_file(folder / "adapter_model.safetensors") for folder in (tuned, tmp_path)]
    assert adapters[0].keys() == adapters[1].keys()


def test_several_processes_train_together(asking_model: Path, tmp_path: Path) -> None:
    launch = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        "-m", "medusa_apar.cli",
    ]  # fmt: skip
    result = subprocess.run([*launch, *command(asking_model, tmp_path)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert progress_of(tmp_path)["finished"] == list(STAGES)
    assert result.stdout.count("[4/5] heads") == 1
    assert MedusaAparModel.from_pretrained(tmp_path).heads is not None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere/model"], "MODEL nowhere/model"),
        (["model.gguf"], "MODEL model.gguf: model.gguf is no file"),
        (["{model}", "--budget_hours", "0"], "--budget_hours 0 is no time"),
        (["{model}", "--budget_hours", "1e-6"], "allows for 0 questions"),
        (["{model}", "--max_length", "64"], "--max_length 64 has no room"),
        (["{model}", "--questions", "0"], "--questions 0 is below 1"),
        (["{model}", "--data", "nowhere.jsonl"], "--data nowhere.jsonl: no such file"),
        (["{model}", "--num_heads", "0"], "--num_heads 0 is below 1"),
        (["{model}", "--data", "a", "--exclude", "b"], "--exclude b: is for questions that the model writes"),
    ],
)
def test_what_cannot_be_tuned_is_told(
    arguments: list[str],
    said: str,
    asking_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit) as error:
        main(["tune", *(argument.format(model=asking_model) for argument in arguments), "--output_dir", "out"])
    assert error.value.code == 2
    assert said in capsys.readouterr().err


def test_questions_of_a_benchmark_are_refused(
    asking_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = tmp_path / "question.jsonl"
    question = {"question_id": 1, "category": "generic", "turns": ["How can I improve my time management skills?"]}
    asked.write_text(json.dumps(question) + "\n")
    with pytest.raises(SystemExit):
        main(command(asking_model, tmp_path / "out", "--data", str(asked)))
    assert "no usable question (left out: 1 x of a benchmark" in capsys.readouterr().err
