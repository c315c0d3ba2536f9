"""`medusa-apar eval heads`: accuracy on held-out questions, and Medusa alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from medusa_apar import MedusaAparModel
from medusa_apar.eval.accuracy.drafts import measure_heads
from medusa_apar.eval.cli import main
from medusa_apar.eval.replay.hits import PUBLISHED

from ...fixtures import QUESTIONS, TINY


@pytest.mark.integration
def test_the_heads_are_as_accurate_as_the_published_ones_in_their_domain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    given = [
        "--model", str(TINY), "--questions", str(QUESTIONS), "--limit", "4", "--nodes", "16", "--dtype", "float32",
        "--output", str(out),
    ]  # fmt: skip
    assert main(["heads", *given]) == 0
    figures = json.loads(out.read_text())
    for row, (top_1, top_5) in zip(figures["accuracy"], PUBLISHED, strict=True):
        assert row[0] >= top_1
        assert row[4] >= top_5
        assert row == sorted(row), "a longer list of draft tokens is right more often"
    assert figures["trees"]["16"] > 2
    shown = capsys.readouterr().out
    assert "0.56, 0.78" in shown
    assert "Medusa alone, 16 nodes:" in shown


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "nodes"), [("heads", "16,64"), ("medusa", "64")])
def test_both_kinds_reach_the_published_accuracy_and_the_wanted_tokens_in_a_step(
    kind: str, nodes: str, tmp_path: Path
) -> None:
    """On all questions; Medusa heads, whose task is that of the published ones, need the larger tree."""
    out = tmp_path / "figures.json"
    given = [
        "--model", str(TINY), "--heads", str(TINY / kind), "--questions", str(QUESTIONS),
        "--nodes", nodes, "--dtype", "float32", "--output", str(out),
    ]  # fmt: skip
    assert main(["heads", *given]) == 0
    figures = json.loads(out.read_text())
    for row, (top_1, top_5) in zip(figures["accuracy"], PUBLISHED, strict=True):
        assert row[0] >= top_1
        assert row[4] >= top_5
    assert min(figures["trees"].values()) >= 2.6


@pytest.fixture(scope="module")
def tiny() -> MedusaAparModel:
    return MedusaAparModel.from_pretrained(TINY, dtype=torch.float32)


def test_nodes_that_hold_no_draft_give_one_token_a_step(tiny: MedusaAparModel) -> None:
    chats = [[{"role": "user", "content": "What causes stress?"}]]
    figures = measure_heads(tiny, AutoTokenizer.from_pretrained(TINY), chats, 48, [1])
    assert figures.trees == {1: 1.0}


def test_a_model_without_heads_is_refused(tiny: MedusaAparModel) -> None:
    with pytest.raises(ValueError, match="the model has no heads; name some with --heads DIR"):
        measure_heads(MedusaAparModel(tiny.backbone), AutoTokenizer.from_pretrained(TINY), [], 8, [1])


def test_wrong_questions_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["heads", "--questions", "list"])
    assert "questions='list' is neither" in capsys.readouterr().err
