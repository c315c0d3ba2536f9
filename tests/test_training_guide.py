"""Every command of `docs/training.md` runs as it is written, on a tiny model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .fixtures import TINY

pytestmark = pytest.mark.integration

GUIDE = Path(__file__).parents[1] / "docs" / "training.md"


@pytest.mark.timeout(900)
def test_the_training_guide_runs_as_written(tmp_path: Path) -> None:
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL))
    assert commands.count("medusa-apar ") == 13
    commands, named = re.subn("^BASE=[^ ]+", f"BASE={TINY}", commands)
    assert named == 1
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "| all, depth 3 | 50.0% |" in done.stdout
    assert done.stdout.count("as they should be") == 3
    assert "root thread" in done.stdout
    assert '"object":"chat.completion"' in done.stdout
    figures = json.loads((tmp_path / "backbone" / "training.json").read_text())["figures"]
    assert {"eval_structured_loss", "eval_later_fork_recall", "eval_tree_cost"} <= set(figures)
    assert (tmp_path / "rows" / "structure.png").exists()
    for folder in ("vllm-heads", "medusa-llm-heads"):
        assert (tmp_path / folder / "config.json").exists()
