"""`medusa-apar heads verify`: heads that serve as they were trained, and heads that do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medusa_apar.cli import main
from medusa_apar.heads.checkpoints.loading import load_heads
from medusa_apar.heads.checkpoints.medusa_llm import write_medusa_llm

from ...fixtures import QUESTIONS, TINY

ARGUMENTS = ["--backbone", str(TINY), "--data", str(QUESTIONS), "--limit", "2", "--max-new-tokens", "64"]


def verify(path: Path, *more: str) -> int:
    try:
        main(["heads", "verify", str(path), *ARGUMENTS, *more])
    except SystemExit as end:
        return int(str(end.code))
    return 0


@pytest.mark.parametrize("kind", ["heads", "medusa"])
def test_the_tiny_heads_serve_as_they_were_trained(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(TINY / kind) == 0
    assert "in training 2." in capsys.readouterr().out


@pytest.mark.parametrize("checkpoint_format", ["vllm", "medusa-llm"])
def test_exported_heads_do_too(checkpoint_format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if checkpoint_format == "vllm":
        main(["heads", "export", str(TINY / "medusa"), "--format", "vllm", "--output_dir", str(tmp_path)])
    else:  # which `heads export` refuses to write, for medusa-llm does not heed all blocks of a file; we do
        write_medusa_llm(load_heads(TINY / "medusa"), tmp_path, str(TINY))
    assert verify(tmp_path) == 2, "there is no figure to compare with"
    assert "give heads that do with --against DIR" in capsys.readouterr().err
    assert verify(tmp_path, "--against", str(TINY / "medusa")) == 0


@pytest.mark.integration
def test_heads_that_were_spoilt_on_the_way_fall_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "heads"
    shutil.copytree(TINY / "medusa", folder)
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if "projection" in name:
            weights[name] = weights[name].roll(1, dims=0)  # every draft is one token id off
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert verify(folder) == 1
    assert "they fall short" in capsys.readouterr().out


def test_heads_without_a_figure_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "heads"
    shutil.copytree(TINY / "heads", folder)
    config = json.loads((folder / "config.json").read_text())
    del config["acceptance"]
    (folder / "config.json").write_text(json.dumps(config))
    assert verify(folder) == 2
    assert "stores no figure of its training" in capsys.readouterr().err


def test_conversations_of_which_none_can_be_used_are_no_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n')
    assert verify(TINY / "heads", "--data", str(tmp_path / "texts.jsonl")) == 2
    assert "no usable question (left out: 1 x none of `prompt`" in capsys.readouterr().err


def test_questions_that_the_chat_template_refuses_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder, asked = tmp_path / "model", tmp_path / "asked.jsonl"
    shutil.copytree(TINY, folder)
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    template = folder / "chat_template.jinja"
    template.write_text(refusal + template.read_text())
    system = [{"role": "system", "content": "Be brief."}]
    chat = [{"role": "user", "content": "How can I sleep better?"}, {"role": "assistant", "content": "Go to bed."}]
    asked.write_text("\n".join(json.dumps({"messages": some}) for some in (system + chat, chat)))
    assert verify(TINY / "heads", "--data", str(asked), "--backbone", str(folder)) == 0
    assert "tokens per step with the best draft tokens alone" in capsys.readouterr().out
    assert "1 x the chat template refuses it: no system role" in caplog.text

    asked.write_text(json.dumps({"messages": system + chat}))
    assert verify(TINY / "heads", "--data", str(asked), "--backbone", str(folder)) == 2
    assert "no usable question (left out: 1 x the chat template refuses it" in capsys.readouterr().err


@pytest.mark.integration
def test_no_draft_is_ever_right_where_the_projections_are_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "heads"
    shutil.copytree(TINY / "medusa", folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: torch.zeros_like(each) for name, each in weights.items()}, folder / "model.safetensors")
    assert verify(folder, "--least", "0.01") == 1
