"""Files of questions and of recorded answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .recorded_answers import recorded


@pytest.fixture
def questions_file(tmp_path: Path) -> Path:
    path = tmp_path / "question.jsonl"
    rows = [
        {"question_id": number, "category": "writing" if number % 2 else "math", "turns": ["Which colours?", "Why?"]}
        for number in range(1, 5)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def answers_file(tmp_path: Path) -> Path:
    """Four conversations of 60 and 30 tokens in 24 and 12 steps."""
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(recorded(number, new_tokens=[60, 30], idxs=[23, 11]) for number in range(1, 5)))
    return path
