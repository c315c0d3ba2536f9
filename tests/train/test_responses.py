"""Reading response files: what is unusable is counted and named, and never fatal."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
    no_text = [
        b"[]",
        b"null",
        b'{"prompt": "a"}',
        b'{"prompt": "a", "response": 3}',
        b'{"response": null, "prompt": "a"}',
    ]
    empty = [b'{"prompt": " ", "response": "a"}', b'{"prompt": "a", "response": "\\n"}']
    half = [b'{"prompt": "a", "response": "\\ud83d"}']
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([GOOD, *not_json, GOOD, *no_text, *empty, *half, GOOD]))
    bad_rows = BadRows()
    assert len(list(read_responses(path, bad_rows))) == 3
    assert list(bad_rows.counts.values()) == [len(not_json), len(no_text), len(empty), len(half)]
    assert list(bad_rows.first.values()) == ["rows.jsonl:2", "rows.jsonl:8", "rows.jsonl:13", "rows.jsonl:15"]
    assert "5 x not JSON (first: rows.jsonl:2)" in str(bad_rows)


def test_counts_add_up_over_files(tmp_path: Path) -> None:
    bad_rows = BadRows()
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(b"{\n")
        assert list(read_responses(tmp_path / name, bad_rows)) == []
    assert str(bad_rows) == "2 x not JSON (first: a.jsonl:1)"


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
