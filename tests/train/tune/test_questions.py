"""`medusa-apar train questions`: as many usable questions as asked for, and nothing is sampled twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from medusa_apar.model import MedusaAparModel
from medusa_apar.train.own_text import questions

BATCH = 4
BIRDS = ("heron", "wren", "crow", "robin", "rail", "coot", "daw", "rook")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A model that writes two questions, a fragment and an endless text in every call; which calls there were."""
    sampled: list[int] = []

    def sample(_: Any, __: Any, ___: Any, ____: Any, count: int, number: int) -> list[str | None]:
        sampled.append(number)
        bird = BIRDS[number]
        assert count <= 4 * BATCH
        return [f"How does a {bird} build its nest?", f"What does a {bird} eat in winter?", "Hm.", None]

    monkeypatch.setattr(questions, "_sample", sample)
    return sampled


def ask(model: Path, output: Path, *more: str) -> list[str]:
    questions.main(["--model", str(model), "--output", str(output), "--batch_size", str(BATCH), *more])
    return [json.loads(line)["prompt"] for line in output.read_text().splitlines()]


def test_samples_become_questions_until_there_are_enough(
    scripted: list[int], tiny_backbone_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert ask(tiny_backbone_dir, tmp_path / "questions.jsonl", "--questions", "3") == [
        "How does a heron build its nest?", "What does a heron eat in winter?", "How does a wren build its nest?",
    ]  # fmt: skip
    assert scripted == [0, 1]
    assert "left out: 2 x not of 3 to 150 words (first: questions.samples.jsonl:1); 2 x longer than" in caplog.text


def test_more_questions_go_on_after_the_samples_that_are_there(
    scripted: list[int], tiny_backbone_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "questions.jsonl"
    first = ask(tiny_backbone_dir, output, "--questions", "3")
    with output.with_suffix(".samples.jsonl").open("a") as file:
        file.write('{"samples": ["cut off by a crash')
    more = ask(tiny_backbone_dir, output, "--questions", "6")
    assert more[:3] == first
    assert scripted == [0, 1, 2]


def test_excluded_questions_are_not_written(scripted: list[int], tiny_backbone_dir: Path, tmp_path: Path) -> None:
    excluded = tmp_path / "benchmark.jsonl"
    excluded.write_text(json.dumps({"question_id": 1, "turns": ["How does a heron build its nest?", "And a wren?"]}))
    written = ask(tiny_backbone_dir, tmp_path / "out.jsonl", "--questions", "2", "--exclude", str(excluded))
    assert written == ["What does a heron eat in winter?", "How does a wren build its nest?"]


def test_samples_of_other_settings_are_not_mixed(
    scripted: list[int], tiny_backbone_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(tiny_backbone_dir, tmp_path / "questions.jsonl", "--questions", "2")
    with pytest.raises(SystemExit):
        ask(tiny_backbone_dir, tmp_path / "questions.jsonl", "--questions", "2", "--temperature", "0.5")
    assert "holds questions with temperature=1.0, not 0.5" in capsys.readouterr().err


def test_a_model_that_writes_no_questions_is_told(
    tiny_backbone_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "_PATIENCE", 8)
    with pytest.raises(SystemExit) as stop:
        ask(tiny_backbone_dir, tmp_path / "questions.jsonl", "--questions", "2", "--max_new_tokens", "8")
    assert stop.value.code == 2
    assert "0 of 12 samples are questions" in capsys.readouterr().err


@pytest.mark.integration
def test_samples_are_the_models_own_words_after_the_opened_turn(
    tiny_tokenizer: PreTrainedTokenizerFast, save_backbone: Callable[..., Path]
) -> None:
    model = MedusaAparModel.from_pretrained(save_backbone(tiny_tokenizer), heads=False)
    turn = questions.OpenUserTurn.of(tiny_tokenizer)
    arguments = questions.QuestionArguments(model="", output="", batch_size=6, max_new_tokens=400)
    texts = questions._sample(model, tiny_tokenizer, turn, arguments, count=14, number=3)
    assert len(set(texts)) == len(texts) == 14
    assert texts == questions._sample(model, tiny_tokenizer, turn, arguments, count=14, number=3)
    assert all(text is None or not any(end in text for end in ("<|end|>", "<|assistant|>")) for text in texts)
