"""The engine writes scripts: all of their tokens, in as many steps as the draft tokens allow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medusa_apar.eval.cli import main
from medusa_apar.eval.decoding.decode import Limits
from medusa_apar.eval.measurement.question_sets import read_questions
from medusa_apar.eval.measurement.shapes import random_model
from medusa_apar.eval.replay.calibration import simulated_steps
from medusa_apar.eval.replay.hits import HitModel
from medusa_apar.eval.replay.recorded import RecordedTurn, read_recorded
from medusa_apar.eval.replay.replay_run import RECORDED_TREE, ReplayRun
from medusa_apar.eval.replay.script import script_of
from medusa_apar.eval.replay.scripted import ScriptedModel

VOCABULARY = 512


@pytest.fixture
def run(questions_file: Path, answers_file: Path) -> ReplayRun:
    torch.manual_seed(0)
    hits = HitModel.published(0.3)
    backbone = random_model("tiny", torch.device("cpu"), torch.float32, vocab_size=VOCABULARY)
    turns = read_recorded(answers_file, read_questions(questions_file))
    return ReplayRun(ScriptedModel(backbone, hits), turns, ["ar", "medusa-apar"], Limits(max_depth=3))


@pytest.mark.parametrize("mode", ["ar", "medusa", "apar", "medusa-apar", RECORDED_TREE])
def test_the_engine_writes_the_whole_script(run: ReplayRun, mode: str) -> None:
    for number, turn in enumerate(run.turns[:4]):
        record = run.write(turn, mode, seed=number)
        assert record.stats.answer_tokens == turn.tokens
        assert record.stats.forks == (3 if "apar" in mode and turn.turn == 1 else 0)
        assert record.stats.steps < turn.tokens


def test_a_fixed_tree_takes_the_steps_that_the_calibration_counts(run: ReplayRun) -> None:
    for number, turn in enumerate(run.turns[:4]):
        record = run.write(turn, RECORDED_TREE, seed=number)
        script = script_of(turn, record.prompt_tokens, forks=False)
        ranks = run.scripted.hits.draw(len(script.token_ids), seed=(run.seed, number))
        assert record.stats.steps == simulated_steps(ranks[record.prompt_tokens - 1 :][: turn.tokens])


def test_heads_that_are_always_right_take_one_step_for_all_that_they_guess(answers_file: Path) -> None:
    torch.manual_seed(0)
    hits = HitModel(accuracy=((1.0,) * 10,) * 2)
    backbone = random_model("tiny", torch.device("cpu"), torch.float32, vocab_size=VOCABULARY)
    turn = RecordedTurn(1, "writing", 1, "Which?", "One path of text without any structure in it.", 31, None)
    run = ReplayRun(ScriptedModel(backbone, hits), [turn], [RECORDED_TREE], Limits())
    record = run.write(turn, RECORDED_TREE, seed=0)
    assert record.stats.steps == 10


def test_an_answer_that_is_longer_than_the_vocabulary(run: ReplayRun) -> None:
    turn = RecordedTurn(1, "writing", 1, "Which?", "Long.", VOCABULARY, None)
    with pytest.raises(ValueError, match="choose a backbone with a larger one"):
        run.write(turn, "ar", seed=0)


def test_turns_without_an_answer_are_counted(
    questions_file: Path, answers_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third, _ = answers_file.read_text().splitlines(keepends=True)
    silent = json.loads(third)
    silent["choices"][0]["turns"][1] = " "
    answers_file.write_text(first + second + json.dumps(silent) + "\n")
    assert main(command(questions_file, answers_file, tmp_path / "out", "--modes", "ar")) == 0
    assert "3 turns of the questions have no recorded answer with text" in capsys.readouterr().out


def command(questions: Path, answers: Path, out: Path, *more: str) -> list[str]:
    return [
        "replay", "--questions", str(questions), "--answers", str(answers), "--output_dir", str(out),
        "--backbone", "tiny", "--dtype", "float32", *more,
    ]  # fmt: skip


@pytest.mark.integration
def test_from_recorded_answers_to_tables_that_say_what_they_are(
    questions_file: Path, answers_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "replay"
    argv = command(questions_file, answers_file, out, "--limit", "2", "--modes", "ar,medusa-63,apar,medusa-apar")
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "Calibrated simulation" in said
    assert "left out" not in said
    text = (out / "summary.md").read_text()
    assert "# Calibrated simulation" in text
    assert "correlation of the heads' errors" in text
    summary = json.loads((out / "summary.json").read_text())
    assert summary["settings"]["what"] == "Calibrated simulation"
    assert list(summary["tables"]) == ["Speed", "Threads"]
    assert (out / "speedup.png").exists()
    lines = (out / "turns.jsonl").read_text()
    assert len(lines.splitlines()) == 2 * 2 * 4
    assert main(argv) == 0
    assert (out / "turns.jsonl").read_text() == lines, "what is finished is kept"


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (["--modes", "ar,fast"], "mode='fast' is unknown; choose one of ar, medusa, apar, medusa-apar, medusa-63"),
        (["--answers", "missing.jsonl"], "missing.jsonl"),
    ],
)
def test_wrong_arguments(
    questions_file: Path, answers_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    more: list[str], error: str,
) -> None:  # fmt: skip
    with pytest.raises(SystemExit):
        main(command(questions_file, answers_file, tmp_path / "out", *more))
    assert error in capsys.readouterr().err
