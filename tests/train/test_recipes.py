"""The recipe of the embedded model, from responses to a folder that loads; and question files out of responses."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoTokenizer

from medusa_apar import MedusaAparModel
from medusa_apar.eval.questions import load_questions
from medusa_apar.train.recipes import embedded, list_questions
from medusa_apar.train.responses import BadRows, Response, read_responses

LIST = "Here are some:\n\n1. **One**: first of all.\n2. **Two**: then this.\n3. **Three**: at last that."
PROSE = "There is nothing to list here, and so this stays one sentence."


def responses() -> list[Response]:
    """Three prompts: mostly lists, half lists, no lists."""
    shares = {"What helps against a cold?": 8, "How do plants grow?": 5, "Who wrote Faust?": 0}
    return [
        Response(prompt, LIST.replace("first", f"first{n}") if n < lists else PROSE)
        for prompt, lists in shares.items()
        for n in range(10)
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "responses.jsonl"
    path.write_text("".join(json.dumps({"prompt": r.prompt, "response": r.response}) + "\n" for r in responses()))
    return path


def test_the_domain_is_the_prompts_most_often_answered_by_lists() -> None:
    chosen = embedded.narrow_domain(responses(), prompts=2, max_characters=1000)
    assert {r.prompt for r in chosen} == {"What helps against a cold?", "How do plants grow?"}
    assert len(chosen) == 20, "answers without a list stay in: they teach not to fork"
    assert embedded.narrow_domain(responses(), prompts=2, max_characters=70) != chosen


def has_words_of(prompt: str, text: str) -> bool:
    """Whether every word of a text is the prompt's, in its order."""
    words = iter(prompt.split())
    return all(word in words for word in text.split())


def test_rewording_drops_words_and_never_adds_any() -> None:
    prompt = "What are the most common causes of stress among people today?"
    reworded = {embedded.reword(prompt, Random(seed)) for seed in range(50)}
    assert len(reworded) > 20
    for text in reworded:
        assert len(text.split()) >= 3
        assert has_words_of(prompt, text)
    assert embedded.reword("Who wrote Faust?", Random(0)) == "Who wrote Faust?"


def test_heldout_prompts_keep_their_wording() -> None:
    parts = list(embedded.split_responses(responses() * 10, heldout_share=0.3, seed=0))
    heldout = [response for part, response in parts if part == "heldout"]
    assert 60 < len(heldout) < 120
    assert {r.prompt for r in heldout} <= {r.prompt for r in responses()}


def asked(data: Path) -> dict[str, list[str]]:
    """The prompts that the backbone is to answer, by part."""
    return {
        part: [json.loads(line)["prompt"] for line in (data / f"prompts-{part}.jsonl").read_text().splitlines()]
        for part in ("train", "heldout")
    }


def test_heads_are_trained_and_measured_on_answers_to_other_prompts(tmp_path: Path) -> None:
    """A rewording of a prompt is often answered alike, so it stands on the same side."""
    narrow = [f"What are the most common causes of trouble number {n:02}?" for n in range(40)]
    wide = [f"How does everybody at home deal with matter number {n:02}?" for n in range(60)]
    every = [Response(prompt, PROSE) for prompt in narrow + wide]
    embedded.write_own_prompts(tmp_path, every, every[:40], rewordings=40)
    parts = asked(tmp_path)
    named = {part: {prompt for prompt in prompts if prompt in {*narrow, *wide}} for part, prompts in parts.items()}
    assert named["train"] | named["heldout"] == {*narrow, *wide}
    assert len(named["heldout"]) == 2 + 3
    for part, prompts in parts.items():
        assert len(set(prompts)) == len(prompts)
        assert prompts != sorted(prompts)
        assert all(any(has_words_of(prompt, text) for prompt in named[part]) for text in prompts)
    in_domain = sum(any(has_words_of(prompt, text) for prompt in narrow) for text in parts["train"])
    assert in_domain > 0.8 * len(parts["train"]), "most prompts are of the domain"


def test_the_same_recipe_asks_the_same_again(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        embedded.write_own_prompts(tmp_path / name, responses(), responses()[:20], rewordings=20)
    assert asked(tmp_path / "one") == asked(tmp_path / "two")


def test_from_responses_to_a_model_that_loads(data: Path, tmp_path: Path) -> None:
    argv = [
        "--data", str(data), "--output", str(tmp_path / "run"), "--prompts", "2", "--vocab-size", "300",
        "--hidden-size", "64", "--layers", "1", "--max-length", "256", "--batch", "2", "--steps", "60",
        "--head-steps", "2", "--heads", "2",
    ]  # fmt: skip
    embedded.main(argv)
    folder = tmp_path / "run" / "bundle"
    model = MedusaAparModel.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.heads is not None
    assert model.heads.config.num_heads == 2
    assert len(model.heads.config.accuracy) == 2
    assert model.control is not None
    sequences = model.generate(**tokenizer("a cold", return_tensors="pt"), max_new_tokens=4)
    assert isinstance(sequences, torch.Tensor)

    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "run" / "backbone").rglob("*")}
    embedded.main(argv)
    assert written == {file: file.stat().st_mtime_ns for file in (tmp_path / "run" / "backbone").rglob("*")}


def test_list_questions_are_prompts_mostly_answered_by_lists(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "questions.jsonl"
    list_questions.main(["--data", str(data), "--output", str(output), "--share", "0.6"])
    assert [question.turns for question in load_questions(str(output))] == [("What helps against a cold?",)]


def test_no_benchmark_question_is_trained_on(data_folder: Path) -> None:
    asked = {
        " ".join(turn.lower().split())
        for name in ("mt_bench", "vicuna_bench")
        for question in load_questions(str(data_folder / name / "question.jsonl"))
        for turn in question.turns
    }
    assert len(asked) == 238
    for part in ("train", "heldout"):
        for response in read_responses(data_folder / f"responses-{part}.jsonl.xz", BadRows()):
            assert " ".join(response.prompt.lower().split()) not in asked
