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
from medusa_apar.heads import MedusaHeads
from medusa_apar.train.recipes import embedded, list_questions
from medusa_apar.train.rows.responses import BadRows, Response, read_responses

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


def test_every_twentieth_prompt_is_held_out_with_all_its_answers() -> None:
    every = [Response(f"What is matter number {n:02}?", answer) for n in range(40) for answer in (LIST, PROSE)]
    trained, unseen = embedded.hold_out_prompts(every)
    assert {response.prompt for response in unseen} == {"What is matter number 00?", "What is matter number 20?"}
    assert len(unseen) == 4
    assert {response.prompt for response in trained}.isdisjoint(response.prompt for response in unseen)
    assert len(trained) == 76


def test_the_narrow_domain_is_trained_on_beside_a_fifth_of_other_responses(tmp_path: Path) -> None:
    wide = [Response(f"Why is matter number {n:03} like that?", f"{PROSE} {n}") for n in range(200)]
    unseen = [Response("What is never seen?", f"{PROSE} {n}") for n in range(400)]
    embedded.write_training_responses(tmp_path, wide, unseen, wide[:60])
    answers = {
        name: [json.loads(line)["response"] for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("wide-train", "wide-heldout", "narrow-train", "narrow-heldout")
    }
    domain = {response.response for response in wide[:60]}
    held_out = set(answers["narrow-heldout"])
    assert sorted(answers["wide-train"]) == sorted({response.response for response in wide} - held_out)
    assert held_out.isdisjoint(answers["narrow-train"])
    assert set(answers["wide-heldout"]) < {response.response for response in unseen}
    assert len(answers["wide-heldout"]) == embedded.MEASURED
    assert len(answers["narrow-heldout"]) == 2
    assert set(answers["narrow-heldout"]) < domain
    assert len(answers["narrow-train"]) == 58 + 15


def asked(data: Path) -> dict[str, list[str]]:
    """The prompts that the backbone is to answer, by part."""
    return {
        part: [json.loads(line)["prompt"] for line in (data / f"prompts-{part}.jsonl").read_text().splitlines()]
        for part in ("train", "heldout")
    }


def test_heads_are_trained_and_measured_on_answers_to_other_prompts(tmp_path: Path) -> None:
    """A rewording of a prompt is often answered alike, so it stands on the same side."""
    prompts = {
        part: [f"What are the most common causes of {part} trouble number {n:02}?" for n in range(count)]
        for part, count in (("narrow", 40), ("wide", 60), ("unseen", 5))
    }
    of = {part: [Response(prompt, PROSE) for prompt in asked] for part, asked in prompts.items()}
    embedded.write_own_prompts(tmp_path, of["narrow"] + of["wide"], of["unseen"], of["narrow"], rewordings=40)
    parts = asked(tmp_path)
    assert {*prompts["narrow"], *prompts["wide"]} < set(parts["train"])
    assert set(prompts["unseen"]) < set(parts["heldout"])
    named = {"train": prompts["narrow"] + prompts["wide"], "heldout": prompts["unseen"]}
    for part, wordings in parts.items():
        assert len(set(wordings)) == len(wordings)
        assert wordings != sorted(wordings)
        assert all(any(has_words_of(prompt, text) for prompt in named[part]) for text in wordings)
    in_domain = sum(any(has_words_of(prompt, text) for prompt in prompts["narrow"]) for text in parts["train"])
    assert in_domain > 0.8 * len(parts["train"]), "most prompts are of the domain"
    assert set(parts["train"]).isdisjoint(parts["heldout"])


def test_the_same_recipe_asks_the_same_again(tmp_path: Path) -> None:
    for name in ("one", "two"):
        embedded.write_own_prompts(tmp_path / name, responses()[:20], responses()[20:], responses()[:10], 20)
    assert asked(tmp_path / "one") == asked(tmp_path / "two")


def test_from_responses_to_a_model_that_loads(data: Path, tmp_path: Path) -> None:
    argv = [
        "--data", str(data), "--output", str(tmp_path / "run"), "--prompts", "2", "--vocab-size", "300",
        "--hidden-size", "64", "--layers", "1", "--max-length", "256", "--batch", "2", "--steps", "60",
        "--tuning-steps", "10", "--sequential-steps", "2", "--medusa-steps", "2", "--heads", "2",
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

    medusa = MedusaAparModel.from_pretrained(folder, heads=folder / "medusa", dtype=torch.float32).heads
    assert medusa is not None
    assert isinstance(medusa, MedusaHeads)

    def written() -> dict[Path, int]:
        stages = ("wide", "narrow", "heads", "medusa")
        return {file: file.stat().st_mtime_ns for name in stages for file in (tmp_path / "run" / name).rglob("*")}

    before = written()
    embedded.main(argv)
    assert written() == before, "a stage that has finished is not run again"


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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lists", "everyday"])
def test_bundled_questions_are_no_training_prompts_nor_rewordings_of_them(data_folder: Path, name: str) -> None:
    prompts = {each.prompt for each in read_responses(data_folder / "responses-train.jsonl.xz", BadRows())}
    for question in load_questions(name):
        assert not any(has_words_of(prompt, question.turns[0]) for prompt in prompts), question.turns[0]
