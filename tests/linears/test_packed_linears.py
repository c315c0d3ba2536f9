"""Packed linear layers: the same numbers up to rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medusa_apar.linears import packed_linears
from medusa_apar.linears.packed_linears import PackedLinear, pack_linears
from medusa_apar.runner.twin import twin

CLOSE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def packed(*linears: nn.Linear) -> nn.Sequential:
    made = twin(nn.Sequential(*linears))
    pack_linears(made)
    return made


@pytest.mark.parametrize("dtype", list(CLOSE))
@pytest.mark.parametrize("rows", [1, 2, 16, 100])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bfloat16_instructions", [True, False])
@pytest.mark.parametrize("packs_single_rows", [True, False])
def test_products_are_the_same_up_to_rounding(
    dtype: torch.dtype,
    rows: int,
    bias: bool,
    bfloat16_instructions: bool,
    packs_single_rows: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not packed_linears.cpu_has_bfloat16():
        bfloat16_instructions = False  # oneDNN cannot pack in bfloat16 there
    monkeypatch.setattr(packed_linears, "cpu_has_bfloat16", lambda: bfloat16_instructions)
    monkeypatch.setattr(packed_linears, "packs_single_rows", lambda: packs_single_rows)
    torch.manual_seed(0)
    linear = nn.Linear(48, 80, bias=bias, dtype=dtype)
    x = torch.randn(1, rows, 48, dtype=dtype)
    exact = nn.functional.linear(x.double(), linear.weight.double(), linear.bias.double() if bias else None)
    with torch.inference_mode():
        product = packed(linear)(x)
    assert product.dtype == dtype
    assert (product.double() - exact).abs().max() < CLOSE[dtype] * exact.abs().max()


@pytest.mark.parametrize("packs_single_rows", [True, False])
@torch.inference_mode()
def test_a_single_row_has_the_product_of_several_layers(
    packs_single_rows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_linears, "packs_single_rows", lambda: packs_single_rows)
    layers = nn.Linear(48, 80), nn.Linear(48, 16)
    row = torch.randn(1, 1, 48)
    wanted = torch.cat([layer(row) for layer in layers], dim=-1)
    assert torch.allclose(PackedLinear(*layers)(row), wanted, atol=1e-5)


def test_other_dtypes_are_left_alone() -> None:
    double, single = packed(nn.Linear(16, 16, dtype=torch.float64), nn.Linear(16, 16))
    assert type(double) is nn.Linear
    assert type(single) is PackedLinear


def test_large_models_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linears, "MAX_BYTES", 4 * 16 * 16 - 1)
    assert type(packed(nn.Linear(16, 16, bias=False))[0]) is nn.Linear
