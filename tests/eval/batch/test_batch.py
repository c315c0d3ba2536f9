"""`medusa-apar eval batch`, run with a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from medusa_apar import MedusaAparModel, MedusaHeads
from medusa_apar.eval.batch import batch_run
from medusa_apar.eval.batch import command as batch
from medusa_apar.eval.batch.batch_run import BatchRecord
from medusa_apar.eval.batch.batch_summary import COLUMNS, summarize
from medusa_apar.tree.control_tokens import ControlTokens

from ..rows import row_of

QUESTIONS = [f'{{"question_id": {n}, "category": "math", "turns": ["{n * "Why? "}"]}}' for n in range(1, 4)]
Command = Callable[..., int]


@pytest.fixture(scope="module")
def real_model(tokenizer: PreTrainedTokenizerFast, tiny_config: Callable[..., LlamaConfig]) -> MedusaAparModel:
    """A tiny random model with heads that really decodes batches."""
    torch.manual_seed(0)
    config = tiny_config(initializer_range=0.2)
    ControlTokens.of_tokenizer(tokenizer).record_in(config)
    backbone = LlamaForCausalLM(config)
    return MedusaAparModel(backbone, MedusaHeads.for_backbone(backbone, num_heads=2))


@pytest.fixture
def command(real_model: MedusaAparModel, eval_command: Callable[..., Command]) -> Command:
    """Runs the command on three questions."""
    return eval_command("batch", batch, real_model, QUESTIONS, "--batch-sizes", "2,1", "--max-new-tokens", "6")


def batches(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "out" / "batches.jsonl").read_text().splitlines()]


def test_measures_every_size_in_every_mode_in_rotating_order(command: Command, tmp_path: Path) -> None:
    assert command("--modes", "ar,medusa-apar", "--rounds", "2") == 0
    found = batches(tmp_path)
    orders = [("generate", "ar", "medusa-apar"), ("ar", "medusa-apar", "generate"), ("medusa-apar", "generate", "ar")]
    expected = [
        (number, size, mode)
        for number, size, order in [(1, 1, 1), (1, 2, 2), (2, 1, 2), (2, 2, 0)]
        for mode in orders[order]
    ]
    assert [(row["round"], row["batch_size"], row["mode"]) for row in found] == expected
    tokens = {(row["round"], row["batch_size"], row["mode"]): row["answer_tokens"] for row in found}
    for number, size in [(1, 1), (1, 2), (2, 1), (2, 2)]:
        assert tokens[number, size, "ar"] == tokens[number, size, "generate"] > 0
    assert all(row["steps"] > 0 and row["seconds"] > 0 for row in found)
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())["tables"]["Speed by batch size"]
    assert [(row["batch size"], row["mode"], row["rounds"]) for row in rows] == [
        (size, mode, 2) for size in (1, 2) for mode in orders[0]
    ]
    assert "| medusa-apar |" in (tmp_path / "out" / "summary.md").read_text()


def test_rounds_take_other_prompts_and_begin_again_behind_the_last(
    real_model: MedusaAparModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    questions = [batch_run.Question(n, "math", (n * "x",)) for n in range(1, 4)]
    run = batch_run.BatchRun(real_model, tokenizer, questions, ["ar"], [2], batch_run.Limits(max_new_tokens=4))
    lengths = [run.batch(number, 2)[1].sum(1).tolist() for number in (1, 2, 3)]
    assert [[length - 2 for length in row] for row in lengths] == [[1, 2], [3, 1], [2, 3]]
    input_ids, mask = run.batch(1, 2)
    assert mask.tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    assert input_ids[0, 0] == tokenizer.pad_token_id


def test_goes_on_after_an_interruption(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--modes", "ar", "--rounds", "2")
    decode, calls = batch_run.decode, 0

    def interrupted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return decode(*arguments, **named)

    monkeypatch.setattr(batch_run, "decode", interrupted)
    assert command(*arguments) == 130
    assert "interrupted; 3 batches are kept" in capsys.readouterr().err
    before = batches(tmp_path)
    assert command(*arguments) == 0
    assert batches(tmp_path)[:3] == before
    assert len(batches(tmp_path)) == 8
    assert command("--modes", "ar", "--rounds", "3") == 0
    assert len(batches(tmp_path)) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch-sizes", "1,0"), "0 is less than 1"),
        (("--modes", "assisted"), "mode='assisted' is unknown"),
        (("--rounds", "0"), "0 is less than 1"),
        (("--max-new-tokens", "249"), "question_id=2: the prompt has 12 tokens, more than the 7"),
    ],
)
def test_says_what_is_wrong_with_an_argument(
    command: Command, arguments: tuple[str, ...], message: str, refusal: Callable[..., str], tmp_path: Path
) -> None:
    assert message in refusal(command, *arguments)
    assert not (tmp_path / "out").exists()


def record(number: int, size: int, mode: str, tokens: int, seconds: float, steps: int = 5) -> BatchRecord:
    return BatchRecord(round=number, batch_size=size, mode=mode, answer_tokens=tokens, steps=steps, seconds=seconds)


RECORDS = [
    record(1, 32, "ar", 100, 1),
    record(1, 32, "apar", 150, 1),
    record(2, 32, "ar", 100, 2),
    record(2, 32, "apar", 100, 4, steps=10),
    record(1, 1, "ar", 10, 1),
    record(1, 1, "apar", 40, 2),
    record(2, 1, "apar", 40, 1),
]


def test_compares_with_ar_in_the_same_round() -> None:
    section = summarize(RECORDS, ("ar", "apar", "medusa"))
    assert list(section.groups) == [(1, "ar"), (1, "apar"), (32, "ar"), (32, "apar")]
    large = row_of(section, 32, "apar")
    assert (large["speed-up"].median, large["lowest"]) == (1.0, 0.5)
    assert large["tokens/s"].median == 87.5
    assert large["tokens/step"] == 20
    small = row_of(section, 1, "apar")
    assert (small["rounds"], small["tokens/s"].median) == (2, 30)
    assert (small["speed-up"].median, small["speed-up"].count) == (2, 1)


def test_leaves_out_speed_ups_without_ar() -> None:
    section = summarize([record(1, 1, "apar", 10, 1)], ("apar",))
    assert (section.rows[0]["speed-up"], section.rows[0]["lowest"]) == (None, None)
    assert section.cells[0][-2:] == ["-", "-"]


def test_tables_have_every_figure() -> None:
    section = summarize(RECORDS, ("ar", "apar"))
    header, _, *lines = section.markdown().splitlines()
    assert len(lines) == len(section.rows) == 4
    names = ["batch size", "mode", *(column.name for column in COLUMNS)]
    assert [cell.strip() for cell in header.strip("|").split("|")] == names
    assert [cell.strip() for cell in lines[-1].strip("|").split("|")] == [
        "32", "apar", "2", "88", "20.00", "1.00 (0.8-1.2)", "0.50",
    ]  # fmt: skip
    text = StringIO()
    Console(file=text, width=80).print(section.terminal())
    assert "1.00 (0.8-1.2)" in text.getvalue()
    assert "…" not in text.getvalue()
