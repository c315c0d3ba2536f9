"""Packed products: the same numbers up to rounding, and no trace left behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from medusa_apar.runner import packed_linears as packed_products
from medusa_apar.runner.packed_linears import PackedProducts

CLOSE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", list(CLOSE))
@pytest.mark.parametrize("rows", [1, 2, 16, 100])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bfloat16_instructions", [True, False])
def test_products_are_the_same_up_to_rounding(
    dtype: torch.dtype, rows: int, bias: bool, bfloat16_instructions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packed_products.cpu_has_bfloat16():
        bfloat16_instructions = False  # oneDNN cannot pack in bfloat16 there
    monkeypatch.setattr(packed_products, "cpu_has_bfloat16", lambda: bfloat16_instructions)
    torch.manual_seed(0)
    linear = nn.Linear(48, 80, bias=bias, dtype=dtype)
    x = torch.randn(1, rows, 48, dtype=dtype)
    exact = nn.functional.linear(x.double(), linear.weight.double(), linear.bias.double() if bias else None)
    with torch.inference_mode(), PackedProducts([linear]).active():
        packed = linear(x)
    assert packed.dtype == dtype
    assert (packed.double() - exact).abs().max() < CLOSE[dtype] * exact.abs().max()


def double_in_place(linear: nn.Linear) -> None:
    linear.weight.mul_(2)


def double_behind_torchs_back(linear: nn.Linear) -> None:
    """As merges of LoRA and averages of weights do."""
    linear.weight.data.mul_(2)


def double_by_another(linear: nn.Linear) -> None:
    linear.weight = nn.Parameter(2 * linear.weight)


@pytest.mark.parametrize("double", [double_in_place, double_behind_torchs_back, double_by_another])
def test_a_changed_weight_is_packed_again(double: Callable[[nn.Linear], None]) -> None:
    linear = nn.Linear(16, 16, bias=False)
    products, x = PackedProducts([linear]), torch.randn(4, 16)
    with torch.no_grad():
        with products.active():
            before = linear(x)
        double(linear)
        with products.active():
            assert torch.allclose(linear(x), 2 * before, atol=1e-5)


def test_layers_are_as_before_afterwards() -> None:
    linear = nn.Linear(16, 16)

    def interrupted() -> None:
        with PackedProducts([linear]).active():
            assert "forward" in vars(linear)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "forward" not in vars(linear)


def test_large_models_and_other_dtypes_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    double, single = nn.Linear(16, 16, dtype=torch.float64), nn.Linear(16, 16)
    monkeypatch.setattr(packed_products, "MAX_BYTES", 4 * 16 * 16 - 1)
    with PackedProducts([double, single]).active():
        assert "forward" not in vars(double) | vars(single)
