"""The products that `benchmarks.linear_products` times are the same up to rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import linear_products
from benchmarks.linear_products import KINDS, measure
from medusa_apar.linears.opaque_linear import by_input

from ..conftest import forking_backbone


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_products_differ_by_rounding_alone(kind: str) -> None:
    torch.manual_seed(0)
    linears = [nn.Linear(64, 48, bias=False), nn.Linear(64, 32, bias=False)]
    rows = torch.randn(1, 5, 64)
    product = KINDS[kind][0](*linears)(rows).float().view(5, 80)
    exact = torch.cat([linear(rows)[0] for linear in linears], dim=1)
    assert (product - exact).abs().max() < 0.05 * exact.abs().max()


def test_layers_of_one_input_are_joined_and_all_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_products, "ROWS", (1, 3))
    backbone = forking_backbone(dtype=torch.float32)
    linears = [each for each in backbone.modules() if isinstance(each, nn.Linear)]
    groups = by_input(backbone, linears)
    assert sorted(map(id, linears)) == sorted(id(each) for group in groups for each in group)
    assert {len(group) for group in groups} == {1, 2, 3}
    assert all(times[rows] > 0 for times in measure(backbone, rounds=1).values() for rows in (1, 3))
