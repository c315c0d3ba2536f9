"""Points along axes, the answers that they write, and `python -m benchmarks.scaling` on a tiny backbone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.scaling.__main__ import main
from benchmarks.scaling.points import LEAD_TOKENS, Axis, Point, all_points, points_along, script_of_point
from benchmarks.scaling.scaling_run import ScalingRecord, write_point
from benchmarks.scaling.scaling_summary import summarize
from medusa_apar.eval.measurement.shapes import random_model
from medusa_apar.eval.replay.hits import HitModel
from medusa_apar.eval.replay.scripted import ScriptedModel

from ..eval.rows import row_of

BASE = Point("tiny", threads=3, rows=1, tokens=60)


def test_axes_cross_in_the_base_point() -> None:
    sweeps = {Axis.THREADS: [1, 3], Axis.ROWS: [1, 2]}
    assert points_along(Axis.ROWS, BASE, sweeps) == [BASE, Point("tiny", 3, 2, 60)]
    assert all_points(BASE, sweeps) == [Point("tiny", 1, 1, 60), BASE, Point("tiny", 3, 2, 60)]


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_an_answer_has_its_tokens_and_its_threads(threads: int) -> None:
    point = Point("tiny", threads, rows=1, tokens=200)
    script = script_of_point(point, forks=True)
    assert script.forks == threads - 1
    assert script.tokens == script_of_point(point, forks=False).tokens == 200


def test_paragraphs_are_of_equal_length() -> None:
    script = script_of_point(Point("tiny", threads=4, rows=1, tokens=4 * 50 + 3 * LEAD_TOKENS + 1), forks=True)
    children = [at for at, token in enumerate(script.token_ids.tolist()) if token == 2]
    for place in children:
        length = 0
        while (place := int(script.successor[place])) != script.nowhere:
            length += 1
        assert length == 50 + 1, "and an EOS of its own"


def test_an_answer_too_short_for_its_threads() -> None:
    with pytest.raises(ValueError, match="tokens=20 is too short for threads=9; take at least 72 tokens"):
        script_of_point(Point("tiny", threads=9, rows=1, tokens=20), forks=True)


@pytest.mark.integration
@pytest.mark.parametrize("mode", ["ar", "medusa", "apar", "medusa-apar"])
def test_every_row_of_a_batch_writes_the_script(mode: str) -> None:
    torch.manual_seed(0)
    hits = HitModel.published(0.3)
    scripted = ScriptedModel(random_model("tiny", torch.device("cpu"), torch.float32, vocab_size=1024), hits)
    point = Point("tiny", threads=3, rows=2, tokens=600)  # more than the pools' first capacity
    record = write_point(scripted, (point, 1, mode))
    assert record.answer_tokens == 2 * 600
    assert record.steps < 600
    if mode == "apar":
        assert record.steps < 600 / 3 + 30, "three threads write at the same time"


def record(mode: str, number: int, seconds: float, point: Point = BASE) -> ScalingRecord:
    return ScalingRecord(
        point=point, round=number, mode=mode, answer_tokens=60, steps=20, nodes=90, seconds=seconds, head_seconds=0.1
    )


def test_rounds_are_compared_with_ar_in_the_same_round() -> None:
    found = [record("ar", 1, 2.0), record("apar", 1, 1.0), record("ar", 2, 4.0), record("apar", 2, 1.0)]
    sweeps = {Axis.THREADS: [3, 4]}
    (section,) = summarize({each.key: each for each in found}, BASE, sweeps, ["ar", "apar"])
    assert section.title == "Threads"
    assert [(row["threads"], row["mode"], row["rounds"]) for row in section.rows] == [
        (3, "ar", 2), (3, "apar", 2),
    ], "4 was not measured"  # fmt: skip
    row = row_of(section, 3, "apar")
    assert row["speed-up"].median == 3.0
    assert row["tokens/s"].median == 60.0
    assert row["ms/token"] == pytest.approx(1000 / 60)
    assert row["nodes/token"] == 1.5
    assert row["ms/step"] == 50
    assert row["heads"] == pytest.approx(0.1)


def test_a_record_survives_its_file() -> None:
    written = record("ar", 1, 2.0)
    assert ScalingRecord.from_json(written.to_json()) == written


def command(out: Path, *more: str) -> list[str]:
    return [
        "--at-backbone", "tiny", "--at-threads", "2", "--at-tokens", "32", "--dtype", "float32",
        "--threads", "1,2", "--rows", "1,2", "--tokens", "32", "--backbones", "tiny", "--rounds", "1",
        "--output_dir", str(out), *more,
    ]  # fmt: skip


@pytest.mark.integration
def test_from_points_to_tables_that_say_what_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scaling"
    argv = command(out, "--modes", "ar,medusa-apar")
    main(argv)
    assert "Calibrated simulation" in capsys.readouterr().out
    text = (out / "summary.md").read_text()
    assert "# Calibrated simulation" in text
    assert "## Threads" in text
    assert "## Rows" in text
    assert "## Tokens" not in text, "a single value does not grow"
    assert json.loads((out / "summary.json").read_text())["settings"]["sweeps"] == {"threads": [1, 2], "rows": [1, 2]}
    assert (out / "scaling.png").exists()
    lines = (out / "points.jsonl").read_text()
    assert len(lines.splitlines()) == 3 * 2, "the base point is measured once for both axes"
    main(argv)
    assert (out / "points.jsonl").read_text() == lines, "what is finished is kept"


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (["--threads", "2", "--rows", "1"], "nothing grows: give more than one value to one of the axes"),
        (["--backbones", "llama-9x"], "backbone='llama-9x' is unknown; choose one of llama-7b"),
        (["--threads", "1,30"], "tokens=32 is too short for threads=30"),
        (["--modes", "fast"], "mode='fast' is unknown; choose one of ar"),
    ],
)
def test_wrong_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], error: str) -> None:
    with pytest.raises(SystemExit):
        main(command(tmp_path / "out", *more))
    assert error in capsys.readouterr().err
