"""A step of one model by its nodes, in float32, bfloat16 and 8-bit integers: which of them is the fastest here?

    python -m benchmarks.step_costs

Every node attends to 256 slots, and steps are not compiled. Milliseconds are those of the backbone and the choice of
tokens, as the budget of draft tokens reads them.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from typing import Any

import torch
from rich import box
from rich.table import Table

from medusa_apar import DEFAULT_MODEL, MedusaAparModel
from medusa_apar.drafting.step_cost import measure
from medusa_apar.eval.measurement.tables import as_markdown
from medusa_apar.linears.prepare import has_kernels

NODES = (1, 4, 8, 16, 32, 64)


def ways() -> dict[str, dict[str, Any]]:
    """Arguments of `from_pretrained` for each way to compute the weights."""
    found: dict[str, dict[str, Any]] = {
        "float32": {"dtype": torch.float32, "weights": "loaded"},
        "bfloat16": {"dtype": torch.bfloat16, "weights": "loaded"},
    }
    return found | ({"int8": {"dtype": torch.float32, "weights": "int8"}} if has_kernels() else {})


def milliseconds(model: MedusaAparModel) -> list[float]:
    """Of a step of so many `NODES`."""
    with model.decoding() as (runner, _):
        cost = measure(runner, None)
    return [1000 * cost.forward(nodes) for nodes in NODES]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_costs", description=__doc__)
    parser.add_argument("--model", default=str(DEFAULT_MODEL), help="folder or hub id")
    arguments = parser.parse_args(argv)
    table = Table("ms", *(f"{nodes} node{'s' * (nodes > 1)}" for nodes in NODES), box=box.MARKDOWN)
    for name, how in ways().items():
        model = MedusaAparModel.from_pretrained(arguments.model, **how)
        table.add_row(name, *(f"{each:.1f}" for each in milliseconds(model)))
    print(f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads")
    print(as_markdown(table))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
