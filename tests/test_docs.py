"""What stands in the documentation can be made again."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_the_picture_of_a_step_is_drawn(tmp_path: Path) -> None:
    script = runpy.run_path(str(DOCS / "one_step.py"))
    script["main"](tmp_path / "step.png")
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG")
