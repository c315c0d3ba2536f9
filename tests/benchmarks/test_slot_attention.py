"""The ways of attention that `benchmarks.slot_attention` times are the same up to rounding."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig

from benchmarks import slot_attention
from benchmarks.slot_attention import main, ways

from ..fixtures import TINY


def test_all_ways_give_the_same() -> None:
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=2)
    single, double, own = (compute() for compute in ways(config, nodes=5, extent=40, share=0.5).values())
    assert torch.allclose(single, double.float(), atol=1e-5)
    assert torch.equal(own, double.float())


def test_a_row_for_each_way(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(slot_attention, "STEPS", ((1, 16, 1.0), (3, 16, 0.5)))
    assert main(["--model", str(TINY), "--rounds", "2"]) == 0
    *_, single, double, own = capsys.readouterr().out.strip().splitlines()
    for row in (single, double, own):
        assert len(row.strip(" |").split("|")) == 3
