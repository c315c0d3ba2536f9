"""Question sets: the format, the bundled ones, and what a broken file says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from medusa_apar.eval.measurement import question_sets as questions
from medusa_apar.eval.measurement.question_sets import Question, load_questions

GOOD = '{"question_id": 1, "category": "math", "turns": ["One?", "Two?"]}'


def test_reads_fastchat_format(question_file: Callable[..., Path]) -> None:
    other = '{"question_id": "b", "category": "stem", "turns": ["Why?"], "reference": ["Because.", ""]}'
    assert load_questions(str(question_file(GOOD, "", other))) == [
        Question(1, "math", ("One?", "Two?")),
        Question("b", "stem", ("Why?",), ("Because.", "")),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"question_id": 2, "category": "math", "turns": ["cut off', "not JSON"),
        ("[1, 2]", "expected a JSON object, got list"),
        ('{"question_id": 2, "turns": ["Why?"]}', "missing category"),
        ('{"category": "math"}', "missing question_id, turns"),
        ('{"question_id": 2.5, "category": "math", "turns": ["Why?"]}', "question_id is 2.5"),
        ('{"question_id": true, "category": "math", "turns": ["Why?"]}', "question_id is True"),
        ('{"question_id": 2, "category": " ", "turns": ["Why?"]}', "category is ' '"),
        ('{"question_id": 2, "category": "math", "turns": []}', "turns is empty"),
        ('{"question_id": 2, "category": "math", "turns": ["Why?", " "]}', "turn 2 is empty"),
        ('{"question_id": 2, "category": "math", "turns": "Why?"}', "turns is 'Why\\?', expected a list of strings"),
        ('{"question_id": 2, "category": "math", "turns": ["Why?"], "reference": [3]}', "reference is \\[3\\]"),
        ('{"question_id": 2, "category": "math", "turns": ["\\ud83d"]}', "half of a surrogate pair"),
        (GOOD, "question_id 1 occurs a second time"),
    ],
)
def test_names_a_broken_line_by_number(question_file: Callable[..., Path], line: str, reason: str) -> None:
    path = question_file(GOOD, "", line)
    with pytest.raises(ValueError, match=f"question.jsonl, line 3: {reason}"):
        load_questions(str(path))


def test_names_a_line_that_is_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes(GOOD.encode() + b"\n" + GOOD.replace("One", "Zwölf").encode("latin-1"))
    with pytest.raises(ValueError, match="line 2: not UTF-8"):
        load_questions(str(path))


def test_categories_take_turns(question_file: Callable[..., Path]) -> None:
    lines = [
        f'{{"question_id": {number}, "category": "{category}", "turns": ["Why?"]}}'
        for number, category in enumerate(("math", "math", "math", "stem", "coding", "coding"))
    ]
    assert [question.question_id for question in load_questions(str(question_file(*lines)))] == [0, 3, 4, 1, 5, 2]


def test_refuses_an_empty_file(question_file: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="has no questions"):
        load_questions(str(question_file("", "")))


def test_refuses_an_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"questions='mt-bench' is neither .* everyday, lists, mt_bench, vicuna_bench"):
        load_questions("mt-bench")


def test_finds_a_benchmark_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mt_bench" / "question.jsonl"
    path.parent.mkdir()
    path.write_text(GOOD + "\n", encoding="utf-8")
    monkeypatch.setenv(questions.DATA_VARIABLE, str(tmp_path))
    assert [question.question_id for question in load_questions("mt_bench")] == [1]


def test_fetches_a_benchmark_from_the_hub(question_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repo: str, path: str, *, repo_type: str) -> str:
        asked.append((repo_type, repo, path))
        return str(question_file(GOOD))

    monkeypatch.delenv(questions.DATA_VARIABLE, raising=False)
    monkeypatch.setattr(questions, "hf_hub_download", download)
    assert len(load_questions("vicuna_bench")) == 1
    assert asked == [("space", "lmsys/mt-bench", "data/vicuna_bench/question.jsonl")]


def test_says_what_to_do_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: str, **__: str) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setenv(questions.DATA_VARIABLE, str(tmp_path))
    monkeypatch.setattr(questions, "hf_hub_download", download)
    with pytest.raises(OSError, match=r"no route to host.*\$MEDUSA_APAR_DATA/mt_bench/question.jsonl.*everyday, lists"):
        load_questions("mt_bench")


def test_everyday_has_the_eight_categories_with_two_turns() -> None:
    everyday = load_questions("everyday")
    categories = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
    assert Counter(question.category for question in everyday) == dict.fromkeys(categories, 3)
    assert {len(question.turns) for question in everyday} == {2}


def test_lists_has_twenty_short_single_turns() -> None:
    lists = load_questions("lists")
    prompts = {question.turns[0] for question in lists}
    assert len(lists) == len(prompts) == 20
    assert {(question.category, len(question.turns)) for question in lists} == {("lists", 1)}
    assert max(len(prompt.split()) for prompt in prompts) <= 15
