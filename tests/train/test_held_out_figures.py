"""`medusa-apar eval backbone`: held-out figures of a trained model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medusa_apar.eval.cli import main

from ..fixtures import TINY

LISTED = "There are three:\n\n1. Work: too much of it.\n2. Money: too little of it.\n3. Family: it takes both."


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    path = tmp_path / "heldout.jsonl"
    rows = [
        {"prompt": "What are the main causes of stress?", "response": LISTED},
        {"prompt": "Hello", "response": "Hi."},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_tiny_model_forks_where_lists_do(
    conversations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    assert (
        main(["backbone", str(conversations), "--model", str(TINY), "--max_length", "512", "--output", str(out)]) == 0
    )
    figures = json.loads(out.read_text())
    assert figures["later_fork_recall"] > 0
    assert figures["tree_cost"] == pytest.approx(figures["structured_text_loss"] / figures["flat_text_loss"] - 1)
    assert not any("runtime" in name for name in figures)
    assert "structured_text_loss" in capsys.readouterr().out


def test_a_file_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["backbone", "nowhere.jsonl", "--model", str(TINY)])
    assert "nowhere.jsonl: no such file" in capsys.readouterr().err


def test_forks_in_answers_that_have_none_count_against_precision(conversations: Path, tmp_path: Path) -> None:
    """Every answer is unstructured for rules that find nothing, and the tiny model forks all the same."""
    out = tmp_path / "figures.json"
    main(["backbone", str(conversations), "--model", str(TINY), "--rules", "headings", "--output", str(out)])
    figures = json.loads(out.read_text())
    assert figures["first_fork_precision"] == 0
    assert "first_fork_recall" not in figures
