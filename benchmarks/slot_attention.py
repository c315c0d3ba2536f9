"""Attention of one step over the KV slots that its nodes see: torch's and ours in C, by dtype.

    python -m benchmarks.slot_attention

In the shape of a model's heads and for all its layers: for the nodes of one row, and for a batch whose rows have KV
pools of their own, some of which have ended.
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
BATCHES = ((16, 16), (16, 12), (64, 64), (64, 48), (64, 16))
"""Rows of a batch, and how many of them still decode; each has a node that sees half of 384 slots."""


def ways(
    config: PretrainedConfig, nodes: int, extent: int, share: float, pools: int = 1
) -> dict[str, Callable[[], Tensor]]:
    """The ways to compute one layer of a step, `[1, nodes, heads, head_dim]`.

    Args:
        config: of the model.
        nodes: of the step; with several pools one in each of the first ones.
        extent: slots of a pool.
        share: of slots that a node sees.
        pools: that there are.
    """
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = config.hidden_size // heads
    query = torch.randn(1, heads, nodes, head_dim)
    key, value = torch.randn(2, pools, kv_heads, extent, head_dim)
    own = None if pools == 1 else torch.arange(nodes)
    groups = None if own is None else own[:, None], own, None if own is None or nodes == pools else own
    seen = torch.rand(nodes, extent) < share
    seen[:, 0] = True
    mask = torch.zeros(nodes, extent).masked_fill(~seen, torch.finfo(torch.float32).min)

    def dense(dtype: torch.dtype) -> Callable[[], Tensor]:
        q, k, v, added = (each.to(dtype) for each in (query, key, value, mask[None, None]))
        return lambda: slot_attention(nn.Identity(), q, k, v, added, head_dim**-0.5, *groups)[0]

    def visible(dtype: torch.dtype, exact: bool = False) -> Callable[[], Tensor]:
        q, k, v, added = (each.to(dtype) for each in (query, key, value, mask))
        return lambda: attend_to_visible(q, k, v, added, own, head_dim**-0.5, exact=exact)

    return {
        "torch, bfloat16": dense(torch.bfloat16),
        "in C, bfloat16": visible(torch.bfloat16),
        "torch, float32": dense(torch.float32),
        "in C, float32": visible(torch.float32),
        "torch, float64": dense(torch.float64),
        "in C, summed in float64": visible(torch.float32, exact=True),
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
    print(f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads")
    steps = {
        f"{nodes} nodes, {share:.0%} of {extent}": ways(config, nodes, extent, share) for nodes, extent, share in STEPS
    }
    batches = {f"{live} of {rows} rows": ways(config, live, 384, 0.5, pools=rows) for rows, live in BATCHES}
    for timed in (steps, batches):
        table = Table("ms", *timed, box=box.MARKDOWN)
        for name in next(iter(timed.values())):
            every = (each[name] for each in timed.values())
            times = (config.num_hidden_layers * milliseconds(each, arguments.rounds) for each in every)
            table.add_row(name, *(f"{each:.1f}" for each in times))
        print(as_markdown(table))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
