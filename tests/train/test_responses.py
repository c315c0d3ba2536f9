"""Reading response files: what is unusable is counted and named, and never fatal."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from medusa_apar.train.command import InputError
from medusa_apar.train.responses import BadRows, Response, read_responses

GOOD = json.dumps({"prompt": "Say hello", "response": "Hello – 你好", "source": "me"}, ensure_ascii=False).encode()


@pytest.mark.parametrize(("suffix", "opener"), [("", open), (".xz", lzma.open), (".gz", gzip.open)])
def test_plain_and_packed_files_read_alike(tmp_path: Path, suffix: str, opener: Callable[..., Any]) -> None:
    path = tmp_path / f"rows.jsonl{suffix}"
    with opener(path, "wb") as file:
        file.write(GOOD + b"\n" + GOOD)
    bad_rows = BadRows()
    assert list(read_responses(path, bad_rows)) == [Response("Say hello", "Hello – 你好")] * 2
    assert bad_rows.counts == {}


def test_bad_rows_are_counted_by_reason_and_the_first_is_named_by_line(tmp_path: Path) -> None:
    not_json = [b"{", b"", b"\xff\xfe\xfa", b"[" * 100_000, b'{"prompt": "a", "response": ' + b"1" * 5000 + b"}"]
    no_format = [b"[]", b"null", b'{"text": "a"}', b'{"messages": "a"}']
    no_text = [b'{"prompt": "a"}', b'{"prompt": "a", "response": 3}', b'{"response": null, "prompt": "a"}']
    empty = [b'{"prompt": "a", "response": ""}', b'{"prompt": "a", "response": "\\n"}']
    half = [b'{"prompt": "a", "response": "\\ud83d"}']
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([GOOD, *not_json, GOOD, *no_format, *no_text, *empty, *half, GOOD]))
    bad_rows = BadRows()
    assert len(list(read_responses(path, bad_rows))) == 3
    assert bad_rows.counts == {
        "not JSON": 5,
        "none of `prompt` and `response`, `messages`, `conversations`": 4,
        "no text in `response`": 3,
        "empty text in `response`": 2,
        "half a surrogate pair in `response`": 1,
    }
    assert list(bad_rows.first.values()) == [f"rows.jsonl:{n}" for n in (2, 8, 12, 15, 17)]
    assert "5 x not JSON (first: rows.jsonl:2)" in str(bad_rows)


def test_counts_add_up_over_files(tmp_path: Path) -> None:
    bad_rows = BadRows()
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(b"{\n")
        assert list(read_responses(tmp_path / name, bad_rows)) == []
    assert str(bad_rows) == "2 x not JSON (first: a.jsonl:1)"


HISTORY = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
)
CONVERSATION = [Response("Hi", "Hello.", HISTORY[:1]), Response("Bye", "See you.", HISTORY)]
TEXTS = ("Be brief.", "Hi", "Hello.", "Bye", "See you.")


def conversation(name: str, role: str, content: str, *roles: str) -> dict[str, Any]:
    return {name: [{role: named, content: text} for named, text in zip(roles, TEXTS, strict=True)]}


FORMATS = {
    "OpenAI": conversation("messages", "role", "content", "system", "user", "assistant", "user", "assistant"),
    "ShareGPT": conversation("conversations", "from", "value", "system", "human", "gpt", "human", "gpt"),
    "FastChat": conversation("conversations", "role", "content", "system", "user", "assistant", "user", "assistant"),
}


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS.keys())
@pytest.mark.parametrize("whole", [False, True], ids=["lines", "array"])
def test_every_answer_of_a_conversation_is_a_response(tmp_path: Path, row: dict[str, Any], whole: bool) -> None:
    path = tmp_path / ("rows.json" if whole else "rows.jsonl")
    path.write_text(json.dumps([row, row], indent=1) if whole else json.dumps(row) + "\n" + json.dumps(row))
    bad_rows = BadRows()
    assert list(read_responses(path, bad_rows)) == CONVERSATION * 2
    assert not bad_rows.counts


def test_a_question_is_all_that_comes_before_the_answer() -> None:
    assert CONVERSATION[1].question == [*HISTORY, {"role": "user", "content": "Bye"}]


def test_messages_may_come_in_parts(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}]
    rows = [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": parts}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, {"role": "assistant", "content": parts}]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    bad_rows = BadRows()
    assert list(read_responses(path, bad_rows)) == [Response("Hi", "Hello.")]
    assert bad_rows.counts == {"no text in a turn of `messages`": 1}


@pytest.mark.parametrize(
    ("roles", "reason"),
    [
        (["gpt", "human"], "a conversation that begins with the assistant"),
        (["human", "human", "gpt"], "two turns in a row by the user"),
        (["human", "gpt", "gpt"], "two turns in a row by the assistant"),
        (["human"], "a conversation without an answer"),
        (["system"], "a conversation without an answer"),
        ([], "a conversation without an answer"),
        (["human", "tool"], "a turn by 'tool'"),
        (["human", None], "a turn by None"),
    ],
)
def test_conversations_out_of_order_are_counted(tmp_path: Path, roles: list[str], reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"conversations": [{"from": role, "value": "text"} for role in roles]}))
    bad_rows = BadRows()
    assert list(read_responses(path, bad_rows)) == []
    assert bad_rows.counts == {reason: 1}


def test_a_question_that_nobody_answers_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        json.dumps({"conversations": [{"from": role, "value": role} for role in ("human", "gpt", "human")]})
    )
    assert list(read_responses(path, BadRows())) == [Response("human", "gpt")]


def test_saved_datasets(tmp_path: Path) -> None:
    Dataset.from_list([FORMATS["OpenAI"]] * 2).save_to_disk(tmp_path / "saved")
    assert list(read_responses(tmp_path / "saved", BadRows())) == CONVERSATION * 2
    DatasetDict(train=Dataset.from_list([FORMATS["OpenAI"]])).save_to_disk(tmp_path / "splits")
    with pytest.raises(InputError, match="splits: holds the splits train; give the folder of one of them"):
        list(read_responses(tmp_path / "splits", BadRows()))
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="other: no dataset that `datasets` has saved"):
        list(read_responses(tmp_path / "other", BadRows()))


@pytest.mark.parametrize("text", ["", "[]", "[ ]"])
def test_a_file_without_rows(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(InputError, match=r"rows\.json: holds no rows"):
        list(read_responses(tmp_path / "rows.json", BadRows()))


def test_an_array_that_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([FORMATS["OpenAI"]] * 2)[:-20])
    with pytest.raises(InputError, match=r"rows\.json: not a whole JSON array"):
        list(read_responses(tmp_path / "rows.json", BadRows()))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl"):
        list(read_responses(tmp_path / "nowhere.jsonl", BadRows()))


@pytest.mark.parametrize("suffix", [".xz", ".gz"])
@pytest.mark.parametrize("damage", ["cut off", "not packed"])
def test_a_damaged_packed_file_is_named(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"rows.jsonl{suffix}"
    packed = (lzma if suffix == ".xz" else gzip).compress(GOOD * 1000)
    path.write_bytes(packed[: len(packed) // 2] if damage == "cut off" else GOOD)
    with pytest.raises(InputError, match=f"rows.jsonl{suffix}: not a whole"):
        list(read_responses(path, BadRows()))


def test_a_conversation_with_its_first_prompt_beside_it_is_a_conversation(tmp_path: Path) -> None:
    """As in UltraChat-200k and No-Robots."""
    messages = [{"role": "user", "content": "Say hello"}, {"role": "assistant", "content": "Hello"}]
    path, bad_rows = tmp_path / "rows.jsonl", BadRows()
    path.write_text(json.dumps({"prompt": "Say hello", "prompt_id": "7", "messages": messages}))
    assert list(read_responses(path, bad_rows)) == [Response("Say hello", "Hello")]
    assert not bad_rows.counts
