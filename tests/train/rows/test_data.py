"""`medusa-apar train data`: conversations to rows on disk, with a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from medusa_apar import cli
from medusa_apar.train.backbone import training as backbone
from medusa_apar.train.rows import data
from medusa_apar.train.rows.responses import Response
from medusa_apar.train.rows.row_arguments import RowArguments
from medusa_apar.train.rows.shards import ShardedRows
from medusa_apar.train.rows.tree_data import TreeRow

LISTED = "1. Red: warm.\n2. Blue: cold.\n3. Green: calm."
RESPONSES = [LISTED if n % 2 else f"Answer {n}." for n in range(20)]


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    path = tmp_path / "conversations.jsonl"
    rows = [{"prompt": f"Colours {n}?", "response": response} for n, response in enumerate(RESPONSES)]
    path.write_text("\n".join([*map(json.dumps, rows), "{", json.dumps({"prompt": "long", "response": "x" * 900})]))
    return path


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "RESPONSES", 8)


def prepare(model: Path, conversations: Path, folder: Path, *more: str) -> None:
    data.main([str(conversations), "--model", str(model), "--output_dir", str(folder), "--max_length", "256", *more])


def test_rows_hold_every_response_once(
    tiny_backbone_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, conversations: Path, tmp_path: Path
) -> None:
    prepare(tiny_backbone_dir, conversations, tmp_path / "rows")
    rows = ShardedRows(tmp_path / "rows", tiny_tokenizer, 256)
    at_once = RowArguments(model="", max_length=256).rows([str(conversations)], tiny_tokenizer)
    assert all(isinstance(rows[at], TreeRow) for at in range(len(rows)))

    def tokens(dataset: Any) -> list[int]:
        return sorted(token for at in range(len(dataset)) for token in dataset[at].input_ids)

    assert tokens(rows) == tokens(at_once)


def test_the_report_tells_what_became_of_all(
    tiny_backbone_dir: Path, conversations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tiny_backbone_dir, conversations, tmp_path / "rows")
    report = json.loads((tmp_path / "rows" / "report.json").read_text())
    assert (report["responses"], report["structured"], report["unstructured"]) == (21, 10, 10)
    assert report["left out"] == (
        "1 x not JSON (first: conversations.jsonl:21); 1 x longer than 256 tokens (first: conversations.jsonl:22)"
    )
    assert report["rules"]["ordered"]["forkable"] == 10
    assert report["rules"]["bullets"]["forkable"] == 0
    assert "| ordered | 47.6% | 3.0 |" in capsys.readouterr().out
    assert "| ordered | 47.6% | 3.0 |" in (tmp_path / "rows" / "report.md").read_text()
    assert (tmp_path / "rows" / "structure.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_run_goes_on_after_its_last_whole_shard(
    tiny_backbone_dir: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tiny_backbone_dir, conversations, tmp_path / "whole")
    add, added = data.Shards.add, []

    def killed(self: Any, *arguments: Any) -> None:
        if len(added) == 2:
            raise KeyboardInterrupt
        added.append(arguments)
        add(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(data.Shards, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(tiny_backbone_dir, conversations, tmp_path / "cut")
    prepare(tiny_backbone_dir, conversations, tmp_path / "cut")
    for name in ("report.json", "rows-00000.json", "rows-00001.json", "rows-00002.json"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_a_full_disk_loses_nothing(
    tiny_backbone_dir: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write = data.Shards.add

    def full(self: Any, *arguments: Any) -> None:
        if self.figures:
            raise OSError(28, "No space left on device")
        write(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(data.Shards, "add", full)
        with pytest.raises(SystemExit):
            prepare(tiny_backbone_dir, conversations, tmp_path / "rows")
    assert "No space left on device; mend it and run again, whole shards are kept" in capsys.readouterr().err
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone_dir)
    with pytest.raises(data.InputError, match="is not finished; run its `medusa-apar train data` again"):
        ShardedRows(tmp_path / "rows", tokenizer, 256)
    prepare(tiny_backbone_dir, conversations, tmp_path / "rows")
    assert json.loads((tmp_path / "rows" / "report.json").read_text())["responses"] == 21


def test_rows_of_other_settings_are_not_mixed(
    tiny_backbone_dir: Path, conversations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tiny_backbone_dir, conversations, tmp_path / "rows")
    with pytest.raises(SystemExit):
        prepare(tiny_backbone_dir, conversations, tmp_path / "rows", "--max_depth", "2")
    assert "its rows were made with max_depth=3, not 2; remove the folder" in capsys.readouterr().err


def test_a_file_that_has_changed_since_is_not_mixed_in(
    tiny_backbone_dir: Path, conversations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tiny_backbone_dir, conversations, tmp_path / "rows")
    conversations.write_text("\n".join(conversations.read_text().splitlines()[5:]))
    with pytest.raises(SystemExit):
        prepare(tiny_backbone_dir, conversations, tmp_path / "rows")
    assert "its rows were made with contents=" in capsys.readouterr().err


def test_files_without_a_usable_conversation_are_named_with_the_reasons(
    tiny_backbone_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    with pytest.raises(SystemExit):
        prepare(tiny_backbone_dir, path, tmp_path / "rows")
    said = capsys.readouterr().err
    assert f"FILE {path}: no usable conversation (left out: 2 x none of `prompt` and `response`" in said
    assert not (tmp_path / "rows" / "report.json").exists()


@pytest.mark.integration
def test_a_backbone_trains_on_prepared_rows(tiny_backbone_dir: Path, conversations: Path, tmp_path: Path) -> None:
    prepare(tiny_backbone_dir, conversations, tmp_path / "rows")
    argv = ["--model", str(tiny_backbone_dir), "--data", str(tmp_path / "rows"), "--output_dir", str(tmp_path / "out")]
    argv += ["--max_length", "256", "--max_steps", "2", "--gradient_accumulation_steps", "1", "--use_cpu", "True"]
    backbone.main(argv)
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_arguments_that_change_nothing_about_prepared_rows_are_named(
    tiny_backbone_dir: Path, conversations: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare(tiny_backbone_dir, conversations, tmp_path / "rows")
    arguments = RowArguments(model=str(tiny_backbone_dir), max_depth=2)
    arguments.rows([str(tmp_path / "rows")], arguments.tokenizer())
    assert "its rows were made with max_depth=3, and --max_depth 2 changes nothing there" in caplog.text


def test_rows_of_another_tokenizer_or_length_are_refused(
    tiny_backbone_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, plain_tokenizer: PreTrainedTokenizerFast,
    conversations: Path, tmp_path: Path, save_backbone: Callable[..., Path],
) -> None:  # fmt: skip
    prepare(tiny_backbone_dir, conversations, tmp_path / "rows")
    with pytest.raises(data.InputError, match=r"made with the tokenizer of .*, another one"):
        ShardedRows(tmp_path / "rows", plain_tokenizer, 256)
    with pytest.raises(data.InputError, match="up to 256 tokens, more than --max_length 128"):
        ShardedRows(tmp_path / "rows", tiny_tokenizer, 128)


def test_control_tokens_need_not_be_there_yet(
    plain_tokenizer: PreTrainedTokenizerFast, save_backbone: Callable[..., Path], conversations: Path, tmp_path: Path
) -> None:
    """They get the ids that training gives them."""
    model = save_backbone(plain_tokenizer)
    prepare(model, conversations, tmp_path / "rows")
    argv = ["--model", str(model), "--data", str(tmp_path / "rows"), "--output_dir", str(tmp_path / "out")]
    backbone.main(
        [*argv, "--max_length", "256", "--max_steps", "1", "--gradient_accumulation_steps", "1", "--use_cpu", "True"]
    )
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_thinned_responses_are_counted(tiny_backbone_dir: Path, conversations: Path, tmp_path: Path) -> None:
    prepare(tiny_backbone_dir, conversations, tmp_path / "rows", "--structured_share", "0.75")
    report = json.loads((tmp_path / "rows" / "report.json").read_text())
    left_out = dict(reversed(part.partition(" (")[0].split(" x ")) for part in report["left out"].split("; "))
    thinned = int(left_out["thinned to structured_share=0.75"])
    too_long = int(left_out["longer than 256 tokens"])
    assert thinned > 0
    assert report["structured"] + report["unstructured"] + thinned + too_long == report["responses"]


def test_shards_are_written_while_conversations_are_read(
    tiny_backbone_dir: Path, conversations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A corpus need not fit into memory."""
    read, folder, seen = data.read_responses, tmp_path / "rows", []

    def watched(*arguments: Any) -> Iterator[Response]:
        for response in read(*arguments):
            seen.append(len(list(folder.glob("rows-*.parquet"))))
            yield response

    monkeypatch.setattr(data, "read_responses", watched)
    prepare(tiny_backbone_dir, conversations, folder)
    assert seen[:8] == [0] * 8
    assert seen[8:16] == [1] * 8
    assert seen[16:] == [2] * (len(seen) - 16)


def test_what_is_left_out_is_said(
    tiny_backbone_dir: Path, conversations: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare(tiny_backbone_dir, conversations, tmp_path / "rows")
    said = "left out: 1 x not JSON (first: conversations.jsonl:21); 1 x longer than 256 tokens"
    assert said in caplog.text


def test_shards_without_rows_train_among_others(
    tiny_backbone_dir: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = tmp_path / "conversations.jsonl"
    responses = ["x" * 900] * 8 + RESPONSES[:8] + ["x" * 900] * 8
    path.write_text("\n".join(json.dumps({"prompt": "?", "response": each}) for each in responses))
    prepare(tiny_backbone_dir, path, tmp_path / "rows")
    shards = sorted((tmp_path / "rows").glob("rows-*.parquet"))
    assert [pq.read_metadata(shard).num_rows > 0 for shard in shards] == [False, True, False]
    rows = ShardedRows(tmp_path / "rows", tiny_tokenizer, 256)
    at_once = RowArguments(model="", max_length=256).rows([str(path)], tiny_tokenizer)
    assert len(rows) == len(at_once)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("responses", "more", "reason"),
    [
        (["x" * 900] * 20, (), "20 x longer than 256 tokens (first: conversations.jsonl:1)"),
        (["plain"] * 20, ("--structured_share", "1"), "20 x thinned to structured_share=1.0"),
        ([""], (), "1 x empty text in `response` (first: conversations.jsonl:1)"),
        ([], (), "1 x a file without rows (first: conversations.jsonl)"),
    ],
    ids=["too long", "thinned", "bad", "empty"],
)
def test_where_no_response_is_left_the_reason_is_said_and_no_folder_stays(
    tiny_backbone_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    responses: list[str], more: tuple[str, ...], reason: str,
) -> None:  # fmt: skip
    path = tmp_path / "conversations.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": "?", "response": each}) for each in responses))
    with pytest.raises(SystemExit) as ended:
        prepare(tiny_backbone_dir, path, tmp_path / "rows", *more)
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"FILE {path}: no usable conversation (left out: {reason}); give other conversations, or another" in said
    assert not (tmp_path / "rows").exists()


def test_a_chat_template_that_refuses_everything_is_said(
    tiny_backbone_dir: Path, conversations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone_dir)
    tokenizer.chat_template = "{{ 1 // 0 }}"
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit) as ended:
        prepare(tmp_path / "model", conversations, tmp_path / "rows")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "21 x the chat template refuses it: ZeroDivisionError: integer division or modulo by zero (first:" in said
    assert not (tmp_path / "rows").exists()


def test_an_empty_file_among_others_is_counted(tiny_backbone_dir: Path, conversations: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    out = ["--model", str(tiny_backbone_dir), "--output_dir", str(tmp_path / "rows")]
    data.main([str(empty), str(conversations), *out])
    report = json.loads((tmp_path / "rows" / "report.json").read_text())
    assert report["responses"] == 21
    assert "1 x a file without rows (first: empty.jsonl)" in report["left out"]


def test_the_command_is_train_data(tiny_backbone_dir: Path, conversations: Path, tmp_path: Path) -> None:
    cli.train(["data", str(conversations), "--model", str(tiny_backbone_dir), "--output_dir", str(tmp_path / "rows")])
    assert (tmp_path / "rows" / "report.json").exists()
