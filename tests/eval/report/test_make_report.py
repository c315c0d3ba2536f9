"""`make report`, as the README has it: the commands of the Makefile, in an empty folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import perf_counter

import pytest

MAKEFILE = Path(__file__).parents[3] / "Makefile"
MINUTES = 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_short_evaluation_becomes_a_page_within_ten_minutes(tmp_path: Path) -> None:
    begin = perf_counter()
    environment = [f"BIN={Path(sys.executable).parent}", "INSTALLED=", "BASE="]  # nothing is to be installed
    subprocess.run(["make", "-f", str(MAKEFILE), *environment, "report"], cwd=tmp_path, check=True)
    assert perf_counter() - begin < 60 * MINUTES
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    for mode in ("ar", "medusa", "apar", "medusa-apar", "generate", "prompt-lookup"):
        assert f">{mode}<" in page
    assert (tmp_path / "report" / "report.md").exists()
