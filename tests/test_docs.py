"""What stands in the documentation can be made again."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


def test_the_picture_of_a_step_is_drawn(tmp_path: Path) -> None:
    script = runpy.run_path(str(DOCS / "one_step.py"))
    script["main"](tmp_path / "step.png")
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG")


def test_last_parts_are_told_from_forks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of three parts the first two fork, one of them later; with a closing paragraph all three do."""
    listed = "1. Red: warm.\n2. Blue: cold.\n3. Green: calm."
    file = tmp_path / "responses.jsonl"
    responses = [listed, f"{listed}\n\nThat is all.", "Red, and nothing else."]
    file.write_text("".join(json.dumps({"prompt": "Colours?", "response": text}) + "\n" for text in responses))
    runpy.run_path(str(DOCS.parent / "benchmarks" / "fork_ends.py"))["main"]([str(file)])
    assert "3 later forks, 1 last parts; forking at all of them: precision 0.75" in capsys.readouterr().out
