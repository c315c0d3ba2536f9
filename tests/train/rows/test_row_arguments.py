"""Rows of conversations, and rows that were prepared before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from medusa_apar.train.command_line import InputError
from medusa_apar.train.rows.row_arguments import RowArguments
from medusa_apar.train.structure import Rule, Rules

LISTED = "1. A: b\n2. C: d\n3. E: f"


def conversations(folder: Path, responses: list[str]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": "?", "response": each}) + "\n" for each in responses))
    return str(path)


@pytest.mark.parametrize(("responses", "share"), [([LISTED], 0.5), (["plain"], 0.5), (["plain"], 1.0)])
def test_data_of_one_kind_alone_gives_a_clear_error(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, responses: list[str], share: float
) -> None:
    with pytest.raises(InputError, match=f"structured_share={share}.*{len(responses)} (un)?structured"):
        RowArguments(model="", structured_share=share).rows([conversations(tmp_path, responses)], tiny_tokenizer)


def test_so_do_responses_that_are_all_too_long(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--data .*no usable response .*1 x longer than 4 tokens"):
        RowArguments(model="", max_length=4).rows([conversations(tmp_path, ["plain"])], tiny_tokenizer)


def test_a_flat_share_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"--flat_share 1\.5 is not between 0 and 1"):
        RowArguments(model="", flat_share=1.5)


def test_the_rules_are_those_that_are_named() -> None:
    arguments = RowArguments(model="", rules=["bullets"], max_depth=4, min_items=3)
    assert arguments.structure == Rules(frozenset({Rule.BULLETS}), max_depth=4, min_items=3)


@pytest.mark.parametrize("name", ["max_depth", "min_items"])
def test_limits_below_one_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"--{name} 1001 is above 1000; give less"):
        assert RowArguments(model="m", **{name: 1001}).structure  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"--{name} 0 is below 1"):
        _ = RowArguments(model="", **{name: 0}).structure  # type: ignore[arg-type]


def test_an_empty_file_among_others_is_said_and_a_file_alone_is_refused(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert len(RowArguments(model="").rows([str(empty), conversations(tmp_path, ["a"])], tiny_tokenizer)) == 1  # type: ignore[arg-type]
    assert "left out: 1 x a file without rows (first: empty.jsonl)" in caplog.text
    with pytest.raises(InputError, match=r"no usable response \(left out: 1 x a file without rows"):
        RowArguments(model="").rows([str(empty)], tiny_tokenizer)
