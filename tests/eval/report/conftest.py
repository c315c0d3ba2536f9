"""Folders as the measurements leave them, made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scripted_model import record

from medusa_apar.eval.timeline import ThreadLine

MODES = ["ar", "apar", "medusa-apar"]
THREADS = (
    ThreadLine(None, 1, "Here are <three> colours", ((0, 1), (1, 2), (2, 1))),
    ThreadLine(0, 2, "details of the first & only fork", ((2, 1), (3, 2))),
)


def settings(**given: Any) -> dict[str, Any]:
    return {"model": "embedded", "questions": "lists", "dtype": "bfloat16", "compiled": False, "modes": MODES, **given}


@pytest.fixture
def speed_folder(tmp_path: Path) -> Path:
    """Four questions in three modes."""
    folder = tmp_path / "speed"
    folder.mkdir()
    records = []
    for number in range(1, 5):
        for seconds, mode in ((4.0, "ar"), (2.0, "apar"), (1.0 + number / 10, "medusa-apar")):
            records.append(
                record(
                    number, mode, seconds=seconds, answer_tokens=40, steps=3, peak_slots=50, ar_slots=60,
                    slots_by_step=[10, 30, 50], category="math" if number % 2 else "stem",
                    threads=THREADS[:1] if mode == "ar" else THREADS,
                )
            )  # fmt: skip
    (folder / "turns.jsonl").write_bytes(b"".join(each.to_json() for each in records))
    (folder / "settings.json").write_text(json.dumps(settings()))
    return folder


@pytest.fixture
def quality_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "quality"
    folder.mkdir()
    row = {
        "category": "overall", "mode": "apar", "answers": 4, "empty": 0, "too_long": 0, "tokens": 40.0,
        "nats_per_token": 1.234, "distinct_4grams": 0.9, "looping": 0.0, "empty_details": 0.0, "open_ends": 0.0,
        "misnumbered": 0.0, "broken": 0.25,
    }  # fmt: skip
    score = {"category": "overall", "mode": "apar", "turn": None, "score": 6.5}
    summary = {
        "settings": {"answers": "runs/speed/answers", "questions": "lists", "model": "embedded"},
        "measures": [row, {**row, "category": "math"}], "scores": [score], "pairs": [],
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder
