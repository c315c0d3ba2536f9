"""Files of rows: how they are packed, their encodings, and datasets that are saved."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from medusa_apar.train.command_line import InputError
from medusa_apar.train.rows.files import read_rows

ROWS = [{"prompt": "Wie geht’s?", "response": "Gut \N{GRINNING FACE}"}, {"prompt": "b\u2028c", "response": "\x85d"}]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]


def read(path: Path) -> list[tuple[Any, str]]:
    return [(str(row) if isinstance(row, ValueError) else row, place) for row, place in read_rows(path)]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("suffix", "packed"), [("", bytes), (".xz", lzma.compress), (".GZ", gzip.compress)])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_every_encoding_reads_the_same(
    tmp_path: Path, encoding: str, suffix: str, packed: Callable[[bytes], bytes], line_end: str
) -> None:
    path = tmp_path / f"rows.jsonl{suffix}"
    path.write_bytes(packed(LINES.replace("\n", line_end).encode(encoding)))
    assert read(path) == [(ROWS[0], f"{path.name}:1"), (ROWS[1], f"{path.name}:2")]


def test_files_that_were_joined_keep_their_byte_order_marks(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(codecs.BOM_UTF8 + json.dumps(row).encode() for row in ROWS))
    assert [row for row, _ in read(path)] == ROWS


@pytest.mark.parametrize(
    ("encoding", "bad"), [("utf-8", b"\xff"), ("utf-8", b"\xed\xa0\xbd"), ("utf-16-le", b"\x00\xd8")]
)
def test_bytes_that_do_not_decode_cost_one_row(tmp_path: Path, encoding: str, bad: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    text = "\n".join(['{"prompt": "a"}', '{"prompt": "MARK"}', '{"prompt": "c"}']).encode(encoding)
    path.write_bytes(text.replace("MARK".encode(encoding), bad))
    assert read(path) == [
        ({"prompt": "a"}, "rows.jsonl:1"),
        ("bytes that do not decode", "rows.jsonl:2"),
        ({"prompt": "c"}, "rows.jsonl:3"),
    ]


def test_a_text_that_ends_inside_a_character(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"prompt": "a"}\n{"prompt": "é'.encode()[:-1])
    assert read(path) == [({"prompt": "a"}, "rows.jsonl:1"), ("bytes that do not decode", "rows.jsonl:2")]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows"])
@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("whole", [ROWS, ROWS[0]], ids=["array", "object"])
def test_the_content_says_what_a_file_is(tmp_path: Path, name: str, indent: int | None, whole: Any) -> None:
    (tmp_path / name).write_text(json.dumps(whole, indent=indent), encoding="utf-8")
    assert [row for row, _ in read(tmp_path / name)] == (whole if isinstance(whole, list) else [whole])


@pytest.mark.parametrize("suffix", [".xz", ".gz"])
@pytest.mark.parametrize("damage", ["cut off", "not packed"])
def test_a_damaged_packed_file_is_named(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"rows.jsonl{suffix}"
    packed = (lzma if suffix == ".xz" else gzip).compress(LINES.encode() * 1000)
    path.write_bytes(packed[: len(packed) // 2] if damage == "cut off" else LINES.encode())
    with pytest.raises(InputError, match=f"rows.jsonl{suffix}: not a whole"):
        read(path)


def test_bytes_of_no_text_are_no_rows_and_no_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(bz2.compress(LINES.encode() * 1000))
    assert {reason for reason, _ in read(path)} <= {"bytes that do not decode", "not JSON"}


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl"):
        read(tmp_path / "nowhere.jsonl")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("medusa_apar.train.rows.files.open", refuse, raising=False)
    with pytest.raises(InputError, match=r"rows\.jsonl: cannot be read \(Permission denied\)"):
        read(tmp_path / "rows.jsonl")


def test_saved_datasets(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved", num_shards=2)
    assert read(tmp_path / "saved") == [(ROWS[0], "saved:1"), (ROWS[1], "saved:2")]


def test_saved_datasets_give_plain_values_whatever_their_format(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a", "weight": 1}]}
    Dataset.from_list([row]).with_format("numpy").save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved") == [(row, "saved:1")]


def test_other_folders_are_refused(tmp_path: Path) -> None:
    DatasetDict(train=Dataset.from_list(ROWS)).save_to_disk(tmp_path / "splits")
    with pytest.raises(InputError, match="splits: holds the splits train; give the folder of one of them"):
        read(tmp_path / "splits")
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="other: no dataset that `datasets` has saved"):
        read(tmp_path / "other")
