"""`medusa-apar train answers`: a model's own answers, without those that loop or are broken."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from medusa_apar.train.own_text import answers
from medusa_apar.train.rows.responses import BadRows, read_responses


def answer(text: str, *, complete: bool = True, distinct: float = 1.0) -> dict[str, Any]:
    return {"text": text, "complete": complete, "distinct": distinct, "tokens": 9}


WRITTEN = {
    "Which birds?": answer("1. Heron: tall.\n2. Wren: small."),
    "Which loop?": answer("Heron, heron, heron.", distinct=0.2),
    "Which list?": answer("1. Heron: tall.\n4. Wren: small."),
    "Which end?": answer("Herons stand.\nWrens ne", complete=False),
    "Which line?": answer("Herons stand and", complete=False),
}


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in [*WRITTEN, "Which birds?"]))
    return path


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A model with the answers above; which batches were answered."""
    answered: list[int] = []

    def written(_: Any, __: Any, batch: Sequence[Any], ___: int, number: int) -> list[dict[str, Any]]:
        answered.append(number)
        return [WRITTEN[question.messages[-1]["content"]] for question in batch]

    monkeypatch.setattr(answers, "_answer", written)
    return answered


def run(model: Path, asked: Path, output: Path, *more: str) -> list[tuple[str, str]]:
    answers.main(["--model", str(model), "--data", str(asked), "--output", str(output), "--batch_size", "2", *more])
    return [(response.prompt, response.response) for response in read_responses(output, BadRows())]


def test_answers_are_kept_as_training_reads_them(
    scripted: list[int], tiny_backbone_dir: Path, asked: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert run(tiny_backbone_dir, asked, tmp_path / "answers.jsonl") == [
        ("Which birds?", "1. Heron: tall.\n2. Wren: small."), ("Which end?", "Herons stand."),
    ]  # fmt: skip
    assert "2 of 5 answers" in caplog.text
    for reason in ("looping", "with a broken structure (numbering)", "without a whole line"):
        assert f"1 x {reason}" in caplog.text


def test_what_is_answered_is_not_answered_again(
    scripted: list[int], tiny_backbone_dir: Path, asked: Path, tmp_path: Path
) -> None:
    output = tmp_path / "answers.jsonl"
    whole = run(tiny_backbone_dir, asked, output)
    made = output.with_suffix(".made.jsonl")
    made.write_text("".join(made.read_text().splitlines(keepends=True)[:1]) + '{"answers": [')
    assert run(tiny_backbone_dir, asked, output) == whole
    assert scripted == [0, 1, 2, 1, 2]


def test_answers_to_other_questions_are_not_mixed(
    scripted: list[int], tiny_backbone_dir: Path, asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tiny_backbone_dir, asked, tmp_path / "answers.jsonl")
    asked.write_text(json.dumps({"prompt": "Which birds?"}))
    with pytest.raises(SystemExit):
        run(tiny_backbone_dir, asked, tmp_path / "answers.jsonl")
    assert "holds answers with contents=" in capsys.readouterr().err


def test_files_without_questions_are_told(
    tiny_backbone_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(SystemExit) as stop:
        run(tiny_backbone_dir, tmp_path / "texts.jsonl", tmp_path / "answers.jsonl")
    assert stop.value.code == 2
    assert "no usable question (left out: 1 x none of `prompt`" in capsys.readouterr().err


def test_a_model_answers_in_every_way(tiny_backbone_dir: Path, asked: Path, tmp_path: Path) -> None:
    run(tiny_backbone_dir, asked, tmp_path / "answers.jsonl", "--max_new_tokens", "6")
    made = [json.loads(line) for line in (tmp_path / "answers.made.jsonl").read_text().splitlines()]
    assert [len(batch["answers"]) for batch in made] == [2, 2, 1]
    assert all(0 < each["tokens"] <= 6 for batch in made for each in batch["answers"])


def test_the_seed_changes_sampled_answers_alone(tiny_backbone_dir: Path, asked: Path, tmp_path: Path) -> None:
    made = []
    for seed in ("0", "1"):
        run(tiny_backbone_dir, asked, tmp_path / f"{seed}.jsonl", "--max_new_tokens", "12", "--seed", seed)
        made.append(
            [json.loads(line)["answers"] for line in (tmp_path / f"{seed}.made.jsonl").read_text().splitlines()]
        )
    sampled, _, greedy = zip(*made, strict=True)
    assert sampled[0] != sampled[1]
    assert greedy[0] == greedy[1]
