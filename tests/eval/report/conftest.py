"""Folders as the measurements leave them, made by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from medusa_apar.eval.batch.batch_run import BatchRecord
from medusa_apar.eval.measurement.store import Record
from medusa_apar.eval.serving.load_run import LoadRecord
from medusa_apar.eval.speed.timeline import ThreadLine

from ..scripted_model import record

MODES = ["ar", "apar", "medusa-apar"]
THREADS = (
    ThreadLine(None, 1, "Here are <three> colours", ((0, 1), (1, 2), (2, 1))),
    ThreadLine(0, 2, "details of the first & only fork", ((2, 1), (3, 2))),
)


def settings(**given: Any) -> dict[str, Any]:
    return {
        "model": "default",
        "questions": "lists",
        "dtype": "bfloat16",
        "computed": "loaded",
        "compiled": False,
        "modes": MODES,
        **given,
    }


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
        "category": "overall", "mode": "apar", "answers": [4, 0], "tokens": 40.0, "nats/token": 1.234, "4-grams": 0.9,
        "loops": 0.0, "empty": 0.0, "open": 0.0, "numbers": 0.0, "broken": 0.25, "too long": 0,
    }  # fmt: skip
    rating = {"category": "overall", "mode": "apar", "judged": [4, 0, 0], "turn 1": 6.5, "all": 6.5}
    summary = {
        "settings": {"answers": "runs/speed/answers", "questions": "lists", "model": "default"},
        "tables": {"Without a judge": [{**row, "category": "math", "broken": 0.5}, row], "Ratings": [rating]},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def written(folder: Path, name: str, records: Iterable[Record], described: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / name).write_bytes(b"".join(each.to_json() for each in records))
    (folder / "settings.json").write_text(json.dumps(described))
    return folder


@pytest.fixture
def batch_folder(tmp_path: Path) -> Path:
    """Two sizes in two modes."""
    records = [
        BatchRecord(round=1, batch_size=size, mode=mode, answer_tokens=tokens, steps=10, seconds=1.0)
        for size, mode, tokens in ((1, "ar", 100), (1, "apar", 250), (32, "ar", 1000), (32, "apar", 1500))
    ]
    return written(tmp_path / "batch", "batches.jsonl", records, settings(modes=["ar", "apar"]))


@pytest.fixture
def serving_folder(tmp_path: Path) -> Path:
    """One load on two sizes of KV memory; with the smaller one `ar` was not measured."""
    records = [
        LoadRecord(
            kv_blocks=blocks, arrivals="closed:4", mode=mode, round=1, seconds=1.0, tokens=[tokens], threads=[1],
            latencies=[0.5], first_tokens=[0.1], kv_usage=[0.5], prefix_hit_rate=0.5, errors=[], memory_mib=[1.0],
            requests_left=0,
        )
        for blocks, mode, tokens in ((512, "ar", 600), (512, "apar", 900), (40, "apar", 777))
    ]  # fmt: skip
    return written(tmp_path / "serving", "loads.jsonl", records, settings())
