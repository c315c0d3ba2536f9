"""A judge that serves, prompts of the judge in a few words, and answer files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from .judge_server import KEY, PROMPTS, Judge, serving

WriteAnswers = Callable[..., Path]


@pytest.fixture
def write_answers(tmp_path: Path) -> WriteAnswers:
    """Writes answers in FastChat's model_answer format, by default as a mode's file in the folder `answers`."""

    def write(mode: str, answers: Mapping[int, Sequence[str]], folder: str = "answers") -> Path:
        path = tmp_path / folder / f"{mode}.jsonl"
        path.parent.mkdir(exist_ok=True)
        rows = [
            {"question_id": id_, "answer_id": "a", "model_id": mode, "choices": [{"index": 0, "turns": list(turns)}]}
            for id_, turns in answers.items()
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def prompt_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of the judge's prompts, in FastChat's format."""

    def write(prompts: Mapping[str, str] = PROMPTS) -> Path:
        path = tmp_path / "judge_prompts.jsonl"
        rows = [
            {"name": name, "system_prompt": f"system of {name}", "prompt_template": template}
            for name, template in prompts.items()
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Judge]:
    """A judge that serves, and its key in the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(Judge()) as served:
        yield served
