"""`--dtype`: names of dtypes, and `auto`."""

from __future__ import annotations

import pytest
import torch

from medusa_apar.linears import dtype as precision
from medusa_apar.linears.dtype import DTYPES, dtype_named


@pytest.mark.parametrize("name", [name for name in DTYPES if name != "auto"])
def test_a_name_is_the_format_of_torch(name: str) -> None:
    assert str(dtype_named(name)) == f"torch.{name}"


@pytest.mark.parametrize(
    ("instructions", "gpu", "expected"),
    [(False, False, torch.float32), (True, False, torch.bfloat16), (False, True, torch.bfloat16)],
)
def test_auto_is_bfloat16_only_where_the_machine_multiplies_in_it(
    monkeypatch: pytest.MonkeyPatch, instructions: bool, gpu: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: instructions)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)

    assert dtype_named("auto") is expected
