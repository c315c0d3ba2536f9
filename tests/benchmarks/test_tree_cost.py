"""`python -m benchmarks.tree_cost`: trees and flat text, each read by the backbone that learnt it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.tree_cost import main, write_structured
from medusa_apar.train.backbone.held_out_figures import measure_backbone
from medusa_apar.train.rows.responses import BadRows, Response, read_responses
from medusa_apar.train.rows.row_arguments import RowArguments
from medusa_apar.train.structure import RULES

from ..fixtures import TINY

LISTED = "There are three:\n\n1. Work: too much of it.\n2. Money: too little of it.\n3. Family: it takes both."


def conversations(path: Path, *responses: str) -> Path:
    path.write_text("".join(json.dumps({"prompt": "Why?", "response": response}) + "\n" for response in responses))
    return path


@pytest.mark.integration
def test_each_layout_is_read_by_the_backbone_that_learnt_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = conversations(tmp_path / "data.jsonl", LISTED, "Hi."), tmp_path / "out"
    main(
        [
            "--model", str(TINY), "--data", str(data), "--eval_data", str(data), "--max_length", "256",
            "--output_dir", str(out), "--max_steps", "20", "--per_device_train_batch_size", "1",
            "--gradient_accumulation_steps", "1", "--learning_rate", "1e-3", "--use_cpu", "True",
        ]
    )  # fmt: skip
    summary = json.loads((out / "summary.json").read_text())
    losses = summary["text_loss"]
    assert summary["responses"] == 1, "the unstructured one is left out"
    assert losses["trees"]["trees"] < losses["flat"]["trees"], "what was learnt is read better"
    assert losses["flat"]["flat"] < losses["trees"]["flat"]
    assert summary["tree_cost"] == pytest.approx(losses["trees"]["trees"] / losses["flat"]["flat"] - 1)
    read = measure_backbone([str(data)], RowArguments(model=str(out / "flat"), max_length=256))
    assert read["flat_text_loss"] == losses["flat"]["flat"]
    assert "cost of trees" in capsys.readouterr().out
    assert "| flat " in (out / "summary.md").read_text()


def test_what_is_written_reads_the_same(tmp_path: Path) -> None:
    asked, answered = ({"role": role, "content": LISTED} for role in ("user", "assistant"))
    history = ({"role": "system", "content": "Be brief."}, asked, answered)
    response = Response("Why?", LISTED, history, ({"name": "clock"},))
    assert write_structured(tmp_path / "rows.jsonl", [response, Response("Why?", "Hi.")], RULES) == 1
    assert list(read_responses(tmp_path / "rows.jsonl", BadRows())) == [response]


@pytest.mark.parametrize("option", ["--data", "--eval_data"])
def test_conversations_without_trees_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    listed, plain = (str(conversations(tmp_path / f"{text[:2]}.jsonl", text)) for text in (LISTED, "Hi."))
    files = {"--data": listed, "--eval_data": listed} | {option: plain}
    with pytest.raises(SystemExit):
        main(["--model", str(TINY), *(part for each in files.items() for part in each), "--output_dir", str(tmp_path)])
    assert f"{option} {plain}: has no response that makes a tree" in capsys.readouterr().err


def test_a_file_that_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--model", str(TINY), "--data", "nowhere.jsonl", "--eval_data", "nowhere.jsonl"])
    assert "--data nowhere.jsonl: no such file" in capsys.readouterr().err
