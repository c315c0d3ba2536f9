"""What a tuning has done survives it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from medusa_apar.train.tune.progress import Progress


def test_what_is_done_is_found_again(tmp_path: Path) -> None:
    progress = Progress.of(tmp_path / "progress.json")
    progress.plan("questions", 40)
    with progress.stage("questions"):
        pass
    again = Progress.of(tmp_path / "progress.json")
    assert again.planned == {"questions": 40}
    assert again.finished == ["questions"]
    assert again.spent == progress.spent > 0


def test_an_interrupted_stage_is_not_finished_and_its_time_counts(tmp_path: Path) -> None:
    progress = Progress.of(tmp_path / "progress.json")
    with pytest.raises(KeyboardInterrupt), progress.stage("answers"):
        raise KeyboardInterrupt
    again = Progress.of(tmp_path / "progress.json")
    assert again.finished == []
    assert again.spent > 0
    with again.stage("answers"):
        pass
    assert again.seconds["answers"] > progress.seconds["answers"]


def test_other_processes_wait_and_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "progress.json"
    first = Progress.of(path)
    monkeypatch.setenv("RANK", "1")
    second = Progress.of(path)
    second.plan("questions", 1)
    assert not path.exists()
    waiting = threading.Thread(target=second.wait_for_stage, args=("answers",))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    monkeypatch.setenv("RANK", "0")
    with first.stage("answers"):
        pass
    waiting.join(10)
    assert not waiting.is_alive()
