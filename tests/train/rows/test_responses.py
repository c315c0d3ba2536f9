"""Responses of files: rows that cannot be used are counted by reason and named by place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset

from medusa_apar.train.rows.responses import BadRows, Response, read_questions, read_responses

GOOD = {"prompt": "Say hello", "response": "Hello – 你好", "source": "me"}
ROWS = [
    json.dumps(GOOD),
    '{"prompt": "a", "response": "b\\q"}',
    '{"text": "a"}',
    '{"prompt": "a", "response": NaN}',
    '{"prompt": "a", "response": "\\ud83d"}',
    json.dumps(GOOD),
    '{"text": "b"}',
    json.dumps({"prompt": "a", "response": ""}),
]
COLUMNS = [2 + sum(len(row) + 2 for row in ROWS[:at]) for at in (1, 2, 3, 4, 7)]
COUNTS = {
    "a bad escape in a string": 1,
    "none of `prompt` and `response`, `messages`, `conversations`, `instruction` and `output`": 2,
    "NaN, which is not JSON": 1,
    "half a surrogate pair in `response`": 1,
    "empty text in `response`": 1,
}


@pytest.mark.parametrize(
    ("name", "text", "first"),
    [
        ("rows.jsonl", "\n".join(ROWS), ["2", "3", "4", "5", "8"]),
        ("rows.json", "[\n" + ",\n".join(ROWS) + "]", ["3", "4", "5", "6", "9"]),
        ("rows.json", "[" + ", ".join(ROWS) + "]", [f"1:{column}" for column in COLUMNS]),
    ],
    ids=["lines", "array of lines", "array in a line"],
)
def test_bad_rows_are_counted_by_reason_and_the_first_is_named_by_place(
    tmp_path: Path, name: str, text: str, first: list[str]
) -> None:
    (tmp_path / name).write_text(text)
    bad_rows = BadRows()
    found = list(read_responses(tmp_path / name, bad_rows))
    assert found == [Response("Say hello", "Hello – 你好")] * 2
    assert bad_rows.counts == COUNTS
    assert list(bad_rows.first.values()) == [f"{name}:{place}" for place in first]
    assert f"1 x NaN, which is not JSON (first: {name}:{first[2]})" in str(bad_rows)


def test_responses_know_their_place(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(ROWS))
    Dataset.from_list([{**GOOD, "prompt": None}, GOOD]).save_to_disk(tmp_path / "saved")
    places = [
        response.place for name in ("rows.jsonl", "saved") for response in read_responses(tmp_path / name, BadRows())
    ]
    assert places == ["rows.jsonl:1", "rows.jsonl:6", "saved:2"]


def test_counts_add_up_over_files(tmp_path: Path) -> None:
    bad_rows = BadRows()
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("{\n")
        assert list(read_responses(tmp_path / name, bad_rows)) == []
    assert str(bad_rows) == "2 x cut off by the end of the file (first: a.jsonl:1)"


@pytest.mark.parametrize("text", ["", "\n", "\ufeff", "[]", "[ ]"])
def test_a_file_without_rows_is_counted(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.json").write_text(text, encoding="utf-8")
    bad_rows = BadRows()
    assert list(read_responses(tmp_path / "rows.json", bad_rows)) == []
    assert str(bad_rows) == "1 x a file without rows (first: rows.json)"


def test_so_is_a_saved_dataset_without_rows(tmp_path: Path) -> None:
    Dataset.from_dict({"prompt": [], "response": []}).save_to_disk(tmp_path / "saved")
    bad_rows = BadRows()
    assert list(read_responses(tmp_path / "saved", bad_rows)) == []
    assert str(bad_rows) == "1 x a file without rows (first: saved)"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Hi"}, [["Hi"]]),
        ({"prompt": "Hi", "response": None}, [["Hi"]]),
        ({"prompt": "Hi", "response": "Hello", "system": "Be brief."}, [["Be brief.", "Hi"]]),
        ({"instruction": "Say", "input": "hello"}, [["Say\nhello"]]),
        ({"messages": [{"role": "user", "content": "Hi"}]}, [["Hi"]]),
        (
            {"conversations": [{"from": role, "value": role} for role in ("human", "gpt", "human")]},
            [["human"], ["human", "gpt", "human"]],
        ),
        ({"question_id": 7, "turns": ["Hi", "And then?"]}, [["Hi"]]),
    ],
)
def test_questions_are_read_answered_or_not(tmp_path: Path, row: dict[str, object], expected: list[list[str]]) -> None:
    path, bad_rows = tmp_path / "rows.jsonl", BadRows()
    path.write_text(json.dumps(row))
    found = list(read_questions(path, bad_rows))
    assert [[message["content"] for message in messages] for messages, _ in found] == expected
    assert {place for _, place in found} == {"rows.jsonl:1"}
    assert not bad_rows.counts
