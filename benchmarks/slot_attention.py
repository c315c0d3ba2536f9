"""Attention of one step over the KV slots that its nodes see: torch's in float32 and float64, and ours in C.

    python -m benchmarks.slot_attention

In the shape of a model's heads and for all its layers.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter

import torch
from rich import box
from rich.table import Table
from torch import Tensor, nn
from transformers import PretrainedConfig

from medusa_apar import DEFAULT_MODEL
from medusa_apar.argument_types import positive
from medusa_apar.checkpoint import load_backbone
from medusa_apar.eval.measurement.tables import as_markdown
from medusa_apar.runner.attention import slot_attention
from medusa_apar.runner.visible_attention import attend_to_visible

STEPS = ((1, 256, 1.0), (8, 256, 0.5), (16, 256, 0.5), (16, 512, 0.5), (16, 512, 0.25), (32, 512, 0.5), (512, 512, 0.5))
"""Nodes, slots, and the share of slots that a node sees."""


def ways(config: PretrainedConfig, nodes: int, extent: int, share: float) -> dict[str, Callable[[], Tensor]]:
    """The ways to compute one layer of a step, `[1, nodes, heads, head_dim]`."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = config.hidden_size // heads
    query = torch.randn(1, heads, nodes, head_dim)
    key, value = torch.randn(2, 1, kv_heads, extent, head_dim)
    seen = torch.rand(nodes, extent) < share
    seen[:, 0] = True
    mask = torch.zeros(nodes, extent).masked_fill(~seen, torch.finfo(torch.float32).min)

    def dense(dtype: torch.dtype) -> Callable[[], Tensor]:
        q, k, v, added = (each.to(dtype) for each in (query, key, value, mask[None, None]))
        return lambda: slot_attention(nn.Identity(), q, k, v, added, head_dim**-0.5)[0]

    return {
        "torch, float32": dense(torch.float32),
        "torch, float64": dense(torch.float64),
        "in C, summed in float64": lambda: attend_to_visible(query, key, value, mask, None, head_dim**-0.5),
    }


def milliseconds(compute: Callable[[], Tensor], rounds: int) -> float:
    """The median of so many rounds, after one."""
    times = []
    for _ in range(rounds + 1):
        start = perf_counter()
        compute()
        times.append(1000 * (perf_counter() - start))
    return median(times[1:])


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slot_attention", description=__doc__)
    parser.add_argument("--model", default=str(DEFAULT_MODEL), help="folder or hub id")
    parser.add_argument("--rounds", type=positive, default=20)
    arguments = parser.parse_args(argv)
    config = load_backbone(arguments.model).config.get_text_config()
    columns: dict[str, list[float]] = {}
    for step in STEPS:
        for name, compute in ways(config, *step).items():
            columns.setdefault(name, []).append(config.num_hidden_layers * milliseconds(compute, arguments.rounds))
    names = (f"{nodes} nodes, {share:.0%} of {extent}" for nodes, extent, share in STEPS)
    table = Table("ms", *names, box=box.MARKDOWN)
    for name, times in columns.items():
        table.add_row(name, *(f"{each:.1f}" for each in times))
    print(f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads")
    print(as_markdown(table))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
