"""Forks of many answers at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import forks_in_batches

from ..fixtures import TINY


@pytest.mark.integration
def test_a_line_for_each_category_and_one_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(forks_in_batches, "MAX_NEW_TOKENS", 240)
    asked = tmp_path / "questions.jsonl"
    turns = {"stress": "What are the main causes of stress?", "soap": "How do I make soap bubbles?"}
    asked.write_text(
        "".join(
            f'{{"question_id": {number}, "category": "{name}", "turns": ["{turn}"]}}\n'
            for number, (name, turn) in enumerate(turns.items())
        )
    )
    forks_in_batches.main([str(TINY), str(asked)])
    *_, stress, soap, every = capsys.readouterr().out.splitlines()
    assert f"{asked}: stress | 1 | 100% |" in stress
    assert float(stress.split("|")[4]) > 1.2
    assert f"{asked}: soap | 1 |" in soap
    assert f"{asked}: all | 2 |" in every
    forks_in_batches.main([str(TINY), str(asked), "--fork-bias", "30", "--untuned", str(TINY)])
    *_, stress, soap, every = capsys.readouterr().out.splitlines()
    assert stress.endswith("| 0 | - | 100% |")
    assert every.count("|") == 10
