"""What stands in the documentation runs, and can be made again."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

import medusa_apar
from medusa_apar import MedusaAparModel

from .engine.test_engine import engine_of, request
from .fixtures import TINY
from .serving.server_process import serving

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"


def snippets(path: Path) -> list[str]:
    """The Python snippets of a page."""
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def test_every_page_with_snippets_is_tested() -> None:
    with_snippets = {path.name for path in (README, *DOCS.glob("*.md")) if snippets(path)}
    assert with_snippets == {"README.md", "generate.md", "architecture.md", "serving.md"}


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the README's snippet leaves behind, with the tiny model."""
    monkeypatch.setattr(medusa_apar, "DEFAULT_MODEL", TINY)
    found: dict[str, Any] = {}
    for snippet in snippets(README):
        exec(snippet, found)
    return found


@pytest.mark.integration
def test_the_readme(names: dict[str, Any]) -> None:
    assert names["output"].stats.tokens_per_step > 1


@pytest.mark.integration
@pytest.mark.parametrize("snippet", snippets(DOCS / "generate.md"))
def test_the_page_on_generate(snippet: str, names: dict[str, Any]) -> None:
    names["model"].generation_config.max_new_tokens = 8
    exec(snippet, names)


@pytest.mark.parametrize("snippet", snippets(DOCS / "architecture.md"))
def test_the_page_on_the_architecture(snippet: str) -> None:
    model = MedusaAparModel.from_pretrained(TINY)
    asked = request(0)
    with engine_of(model) as engine:
        exec(snippet, {"engine": engine, "request": asked})
        assert asked.tree.threads[0].finish_reason is not None


@pytest.mark.integration
@pytest.mark.parametrize("snippet", snippets(DOCS / "serving.md"))
def test_the_page_on_serving(snippet: str, capsys: pytest.CaptureFixture[str]) -> None:
    with serving("--model", str(TINY), "--served-model-name", "default") as (_, address):
        exec(snippet.replace("http://127.0.0.1:8000", address), {})
    assert len(capsys.readouterr().out.split()) > 10


def test_the_picture_of_a_step_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(medusa_apar, "DEFAULT_MODEL", TINY)
    script = runpy.run_path(str(DOCS / "one_step.py"))
    script["main"](tmp_path / "step.png")
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG")


def test_last_parts_are_told_from_forks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of three parts the first two fork, one of them later; with a closing paragraph all three do."""
    listed = "1. Red: warm.\n2. Blue: cold.\n3. Green: calm."
    file = tmp_path / "responses.jsonl"
    responses = [listed, f"{listed}\n\nThat is all.", "Red, and nothing else."]
    file.write_text("".join(json.dumps({"prompt": "Colours?", "response": text}) + "\n" for text in responses))
    runpy.run_path(str(ROOT / "benchmarks" / "fork_ends.py"))["main"]([str(file)])
    assert "3 later forks, 1 last parts; forking at all of them: precision 0.75" in capsys.readouterr().out
