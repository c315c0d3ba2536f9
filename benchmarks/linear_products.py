"""Products of all linear layers of a backbone on the CPU, by number of rows: with the kernels that torch has.

`python -m benchmarks.linear_products` prints a table of milliseconds, the fastest of several rounds in turn. Layers of
one input are joined where it says so.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Sequence
from time import perf_counter

import torch
from rich import box
from rich.table import Table
from torch import Tensor, nn

from medusa_apar import DEFAULT_MODEL
from medusa_apar.argument_types import positive
from medusa_apar.checkpoint import load_backbone
from medusa_apar.eval.measurement.tables import as_markdown
from medusa_apar.linears.opaque_linear import by_input
from medusa_apar.linears.packed_linears import PackedLinear
from medusa_apar.linears.quantized_linears import QuantizedLinear

ROWS = (1, 4, 8, 16, 32)
Product = Callable[[Tensor], Tensor]


def plain(*linears: nn.Linear) -> Product:
    """Torch's own product."""
    weight = torch.cat([each.weight for each in linears])
    return lambda rows: nn.functional.linear(rows, weight)


def packed(*linears: nn.Linear) -> Product:
    """The kernel of oneDNN in the dtype of the weights, packed."""
    return PackedLinear(*linears).multiply


def fbgemm_int8(*linears: nn.Linear) -> Product:
    """FBGEMM in 8-bit integers, rows quantised each to its own range."""
    return QuantizedLinear(*linears)


def onednn_int8(*linears: nn.Linear) -> Product:
    """The kernel of oneDNN in 8-bit integers, all rows quantised to one range; to half of it without VNNI.

    Without these instructions sums of two products saturate at 16 bits.
    """
    weight = torch.cat([each.weight for each in linears])
    scales = weight.abs().amax(dim=1) / 127
    integers = (weight / scales[:, None]).round().to(torch.int8)
    made = torch.ops.onednn.qlinear_prepack(integers, None)
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    capabilities = torch.cpu.get_capabilities()
    middle = 128 if any(capabilities.get(name, False) for name in ("avx512_vnni", "avx_vnni")) else 64

    def product(rows: Tensor) -> Tensor:
        scale = float(rows.abs().max()) / (middle - 1)
        quantized = (rows / scale + middle).round().to(torch.uint8)
        result: Tensor = torch.ops.onednn.qlinear_pointwise(
            quantized, scale, middle, made, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return result

    return product


def weights_int8(*linears: nn.Linear) -> Product:
    """8-bit weights alone, rows in bfloat16."""
    weight = torch.cat([each.weight for each in linears])
    scales = (weight.abs().amax(dim=1) / 127).bfloat16()
    integers = (weight / scales[:, None]).round().to(torch.int8)
    return lambda rows: torch._weight_int8pack_mm(rows[0].bfloat16(), integers, scales)


KINDS: dict[str, tuple[Callable[..., Product], bool]] = {
    "float32": (plain, False),
    "oneDNN, packed": (packed, False),
    "oneDNN, packed, joined": (packed, True),
    "FBGEMM int8, joined": (fbgemm_int8, True),
    "oneDNN int8, joined": (onednn_int8, True),
    "int8 weights, bfloat16 rows, joined": (weights_int8, True),
}
"""How layers are multiplied, and whether those of one input are joined."""


@torch.inference_mode()
def measure(backbone: nn.Module, rounds: int) -> dict[str, dict[int, float]]:
    """Milliseconds of all layers, by kind and number of rows: the fastest of so many rounds."""
    alone = [[each] for each in backbone.modules() if isinstance(each, nn.Linear)]
    joined = by_input(backbone, [each for (each,) in alone])
    products = {
        kind: [(group[0].in_features, make(*group)) for group in (joined if joins else alone)]
        for kind, (make, joins) in KINDS.items()
    }
    found: dict[str, dict[int, float]] = {kind: {} for kind in KINDS}
    for rows in ROWS:
        inputs = {size: torch.randn(1, rows, size) for layers in products.values() for size, _ in layers}
        for _ in range(rounds + 1):
            for kind, layers in products.items():
                start = perf_counter()
                for size, product in layers:
                    product(inputs[size])
                milliseconds = 1000 * (perf_counter() - start)
                found[kind][rows] = min(milliseconds, found[kind].get(rows, milliseconds))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.linear_products", description=__doc__)
    parser.add_argument("--model", default=str(DEFAULT_MODEL), help="folder or hub id")
    parser.add_argument("--rounds", type=positive, default=10)
    arguments = parser.parse_args(argv)
    found = measure(load_backbone(arguments.model, dtype=torch.float32), arguments.rounds)
    table = Table("ms", *(f"{rows} rows" for rows in ROWS), box=box.MARKDOWN)
    for kind, times in found.items():
        table.add_row(kind, *(f"{times[rows]:.1f}" for rows in ROWS))
    print(f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads")
    print(as_markdown(table))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
