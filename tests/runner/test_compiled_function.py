"""Functions that are compiled once, and read from disk from then on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medusa_apar.linears.dtype import Weights
from medusa_apar.runner import compiled_function
from medusa_apar.runner.compilation import Compiler
from medusa_apar.runner.compiled_function import CompiledFunction, kind_of
from medusa_apar.runner.pass_inputs import PassInputs, PoolInputs

from ..conftest import forking_backbone

pytestmark = pytest.mark.integration


class Owner:
    """What has a method to be compiled."""

    def __init__(self, weight: float) -> None:
        self.weight = torch.tensor(weight)

    def scale(self, rows: Tensor, also: Tensor | None = None) -> Tensor:
        return rows * self.weight if also is None else rows * self.weight + also


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDUSA_APAR_CACHE", str(tmp_path))
    monkeypatch.delenv(compiled_function.INDUCTOR_FOLDER, raising=False)
    torch._dynamo.reset()
    return tmp_path


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by an entry per compilation."""
    seen: list[Any] = []
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: seen.append(args) or compile_(*args, **kwargs))
    return seen


def compiled(weight: float = 3.0, key: str | None = "a-model") -> CompiledFunction:
    return CompiledFunction(Owner(weight).scale, key, {})


@torch.inference_mode()
def test_one_graph_serves_all_sizes(compilations: list[Any]) -> None:
    function = compiled()
    for rows in (5, 2, 9):
        assert torch.equal(function(torch.ones(rows, 7)), torch.full((rows, 7), 3.0))
    assert len(compilations) == 1


@torch.inference_mode()
def test_other_kinds_of_arguments_have_graphs_of_their_own(compilations: list[Any]) -> None:
    function, rows = compiled(), torch.ones(5, 7)
    assert torch.equal(function(rows, rows), rows * 4)
    assert torch.equal(function(rows), rows * 3)
    assert torch.equal(function(rows.double()), rows.double() * 3)
    assert len(compilations) == 3


@torch.inference_mode()
def test_the_next_process_finds_the_graph_and_gives_it_its_own_weights(compilations: list[Any]) -> None:
    rows = torch.ones(5, 7)
    compiled(3.0)(rows)
    assert torch.equal(compiled(2.0)(torch.ones(4, 7)), torch.full((4, 7), 2.0))
    assert len(compilations) == 1


@torch.inference_mode()
def test_a_cache_folder_may_contain_a_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDUSA_APAR_CACHE", str(tmp_path / "my cache"))
    rows = torch.ones(5, 7)
    assert torch.equal(compiled()(rows), rows * 3)
    assert list((tmp_path / "my cache").rglob("*.compiled"))


@torch.inference_mode()
def test_another_key_or_none_finds_nothing(compilations: list[Any], cache: Path) -> None:
    rows = torch.ones(5, 7)
    compiled(key=None)(rows)
    assert not list(cache.rglob("*.compiled"))
    compiled(key="a-model")(rows)
    compiled(key="another-model")(rows)
    assert len(compilations) == 3


@torch.inference_mode()
def test_a_damaged_file_is_replaced(
    compilations: list[Any], cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_function.logger.parent, "propagate", True)
    rows = torch.ones(5, 7)
    compiled()(rows)
    (file,) = cache.rglob("*.compiled")
    file.write_bytes(file.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        assert torch.equal(compiled()(rows), rows * 3)
    assert "cannot be read" in caplog.text
    compiled()(rows)
    assert len(compilations) == 2


@torch.inference_mode()
def test_a_folder_that_cannot_be_written_costs_the_file_alone(
    cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_function.logger.parent, "propagate", True)
    monkeypatch.setenv(compiled_function.INDUCTOR_FOLDER, str(cache / "libraries"))
    (cache / "compiled").write_text("a file where the folder should be")
    monkeypatch.setattr(compiled_function, "cache_folder", lambda kind: cache / kind)
    rows = torch.ones(5, 7)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(compiled()(rows), rows * 3)
    assert "could not be kept" in caplog.text


def test_kinds_tell_what_a_graph_takes_for_granted() -> None:
    ids = torch.arange(2)
    one = PassInputs(ids[None], ids[None], torch.zeros(1, 1, 2, 64), ids, PoolInputs())
    more = PassInputs(ids[None], ids[None], {"full_attention": torch.zeros(1, 1, 2, 64)}, ids, PoolInputs(), ids)
    assert kind_of(one) == kind_of(one.clone())
    others = (one, more, ids, ids[None], ids.float(), None, 3, 4, (3, 4), nn.ReLU())
    assert len({kind_of(each) for each in others}) == len(others)


def test_a_key_tells_models_and_attention_apart() -> None:
    def key(**changes: Any) -> str | None:
        model = forking_backbone(dtype=torch.float32)
        for name, value in changes.items():
            setattr(model.config, name, value)
        return Compiler([model], Weights.LOADED)._key()

    assert key() == key()
    assert len({key(), key(_attn_implementation="eager"), key(rms_norm_eps=0.5)}) == 3
    model = forking_backbone(dtype=torch.float32)
    assert len({Compiler([model], weights)._key() for weights in (Weights.LOADED, Weights.INT8)}) == 2
    assert Compiler([model.to(torch.float64)])._key() != key()
    model.register_forward_hook(lambda *_: None)
    assert Compiler([model])._key() is None
