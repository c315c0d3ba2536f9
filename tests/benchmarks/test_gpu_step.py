"""Step times, tried out on the CPU with a tiny shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.gpu_step import Bound, bandwidth, chains, main, measure, weight_bytes
from medusa_apar.eval.measurement.provenance import processor
from medusa_apar.eval.measurement.shapes import SHAPES, random_model
from medusa_apar.kv_cache.placement import Placement
from medusa_apar.runner.model_runner import ModelRunner

CPU = torch.device("cpu")
TINY = ("--device", "cpu", "--shape", "tiny", "--repeats", "2")


def test_spreads_nodes_among_threads_as_chains() -> None:
    thread, depth, above = chains(5, 2)
    assert thread == [0, 0, 0, 1, 1]
    assert depth == [0, 1, 2, 0, 1]
    assert above.astype(int).tolist() == [
        [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1],
    ]  # fmt: skip


def test_random_weights_are_bfloat16_and_a_step_runs_on_them() -> None:
    model = random_model("tiny", CPU)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config.num_hidden_layers == SHAPES["tiny"]["num_hidden_layers"]
    with torch.no_grad():
        logits = model(torch.arange(4)[None]).logits
    assert logits.isfinite().all()
    assert logits.float().std() > 0


@pytest.mark.parametrize(("shape", "billions"), [("llama-7b", 6.74), ("llama-13b", 13.02)])
def test_shapes_have_the_published_sizes(shape: str, billions: float) -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape])).to(torch.bfloat16)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(billions * 1e9, rel=1e-3)
    embeddings = 32000 * SHAPES[shape]["hidden_size"]
    assert weight_bytes(model) == pytest.approx(2 * (billions * 1e9 - embeddings), rel=1e-3)


def test_tied_weights_are_read() -> None:
    config = {**SHAPES["tiny"], "tie_word_embeddings": True}
    model = LlamaForCausalLM(LlamaConfig(**config))
    assert weight_bytes(model) == 4 * sum(parameter.numel() for parameter in model.parameters())


def test_the_bound_is_bytes_over_bandwidth() -> None:
    assert Bound(weight_bytes=10**9, bytes_per_second=5e11).milliseconds == 2
    assert bandwidth(CPU, repeats=2) > 1e8


def test_a_step_has_the_nodes_threads_and_extent_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Placement] = []
    forward = ModelRunner.forward

    def spy(self: ModelRunner, placement: Placement, token_ids: Any) -> Any:
        calls.append(placement)
        return forward(self, placement, token_ids)

    monkeypatch.setattr(ModelRunner, "forward", spy)
    tiny = ModelRunner(random_model("tiny", CPU))
    step = measure(tiny, nodes=4, threads=2, extent=128, repeats=2)
    assert len(calls) == 5
    for call in calls:
        assert call.slots.tolist() == [124, 125, 126, 127]
        assert call.positions.tolist() == [123, 124, 123, 124]
        assert call.mask.shape == (4, 128)
        assert call.mask[:, 1:124].all()
        assert np.array_equal(call.mask[:, 124:], chains(4, 2)[2])
    assert (step.nodes, step.threads, step.extent, step.milliseconds.count) == (4, 2, 128, 2)
    assert step.launch_milliseconds > 0
    assert step.kv_bytes == 2 * 2 * 64 * 128 * 2


def test_writes_every_kind_of_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--nodes", "4,1", "--threads", "1,2", "--extents", "64,128", "--output_dir", str(tmp_path / "out"))
    assert main([*TINY, *arguments]) == 0
    report = json.loads((tmp_path / "out" / "steps.json").read_text())
    kinds = [(step["extent"], step["nodes"], step["threads"]) for step in report["steps"]]
    assert kinds == [(extent, *kind) for extent in (64, 128) for kind in ((1, 1), (4, 1), (4, 2))]
    assert report["settings"]["device"] == processor()
    bound = report["settings"]["bound_milliseconds"]
    assert bound == 1e3 * report["settings"]["weight_bytes"] / report["settings"]["bytes_per_second"]
    text = (tmp_path / "out" / "steps.md").read_text()
    assert text.count("\n|") == 8
    assert "GB/s measured" in text
    assert "…" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--device", "cpu"), "shape='llama-7b' is for a GPU; on --device cpu give --shape tiny"),
        ((*TINY, "--extents", "100"), "extents=100: give multiples of 64 above the 128 nodes"),
        ((*TINY, "--extents", "128"), "extents=128: give multiples of 64 above the 128 nodes"),
        ((*TINY, "--nodes", "0"), "0 is less than 1"),
    ],
)
def test_says_what_is_wrong_with_an_argument(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main([*arguments, "--output_dir", str(tmp_path / "out")])
    assert error.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_asks_for_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main(["--output_dir", str(tmp_path / "out")])
    assert "device='cuda', but this machine has no CUDA GPU" in " ".join(capsys.readouterr().err.split())
