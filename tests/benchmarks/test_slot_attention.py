"""The ways of attention that `benchmarks.slot_attention` times are the same up to rounding."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig

from benchmarks import slot_attention
from benchmarks.slot_attention import main, ways

from ..fixtures import TINY


@pytest.mark.parametrize("pools", [1, 5, 8])
def test_all_ways_give_the_same(pools: int) -> None:
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=2)
    found = {name: compute() for name, compute in ways(config, nodes=5, extent=40, share=0.5, pools=pools).items()}
    wanted = found.pop("torch, float64").float()
    assert torch.equal(found.pop("in C, summed in float64"), wanted)
    assert len(found) == 4
    for name, each in found.items():
        assert torch.allclose(each.float(), wanted, atol=2e-2 if "bfloat16" in name else 1e-5), name


def test_a_row_for_each_way(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(slot_attention, "STEPS", ((1, 16, 1.0), (3, 16, 0.5)))
    monkeypatch.setattr(slot_attention, "BATCHES", ((3, 3), (3, 2)))
    assert main(["--model", str(TINY), "--rounds", "2"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| torch", "| in C"))]
    assert len(rows) == 12
    for row in rows:
        assert len(row.strip(" |").split("|")) == 3
