"""Forks of a tuned model beside the structure of the untuned model's answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.fork_rates import main

LISTED = "1. Red: it is warm.\n2. Blue: it is cold.\n3. Green: it is calm."


def folder(path: Path, mode: str, answers: list[tuple[str, str, int]]) -> str:
    path.mkdir()
    records = [
        {"question_id": at, "turn": 1, "mode": mode, "skipped": None, "category": category, "answer": answer,
         "stats": {"forks": forks}}
        for at, (category, answer, forks) in enumerate(answers)
    ]  # fmt: skip
    (path / "turns.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.mark.parametrize("mode", ["ar", "llama.cpp"])
def test_answers_are_told_apart_by_the_structure_of_the_untuned_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    categories = ("writing", "writing", "math", "math")
    untuned = [
        (category, answer, 0) for category, answer in zip(categories, (LISTED, LISTED, "4", LISTED), strict=True)
    ]
    tuned = [(category, "", forks) for category, forks in zip(categories, (2, 0, 0, 1), strict=True)]
    main([folder(tmp_path / "tuned", "apar", tuned), folder(tmp_path / "untuned", mode, untuned), mode])
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| writing | 2 | 50% | 0 | - |",
        "| math | 1 | 100% | 1 | 0% |",
        "| overall | 3 | 67% | 1 | 0% |",
    ]
