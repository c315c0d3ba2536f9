"""Step time on a GPU by nodes, threads and extent, at the shapes of 7B and 13B Llamas with random weights in bfloat16.

A step reads every weight once, so it cannot be faster than the weights' bytes over the memory's bandwidth, which is
measured on the spot by a large copy. The figures are of the engine's own forward pass, `ModelRunner.forward` through a
`SlotPool`: its mask, the cache's writes by slot, and the chosen tokens on the host. Random weights serve, because the
time does not depend on their values.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from medusa_apar.argument_types import ArgumentParser, positive
from medusa_apar.eval.measurement.provenance import device_name
from medusa_apar.eval.measurement.shapes import SHAPES, random_model
from medusa_apar.eval.measurement.spread import Spread
from medusa_apar.eval.measurement.tables import as_markdown
from medusa_apar.kv_cache.placement import Placement
from medusa_apar.kv_cache.slot_pool import EXTENT_BUCKET
from medusa_apar.runner.compilation import Compiler
from medusa_apar.runner.model_runner import ModelRunner

NODES = (1, 2, 4, 8, 16, 32, 64, 128)
THREADS = (1, 4, 16)
EXTENTS = (256, 1024, 4096)
_COPIED_BYTES = {"cuda": 2**31, "cpu": 2**26}
_WARM_UPS = 3

COLUMNS = ("nodes", "threads", "extent", "ms", "x bound", "x one node", "launch ms")
LEGEND = (
    "ms: a step until its tokens are on the host, median (quartiles); x bound: against the weights' bytes / the "
    "measured bandwidth; x one node: against one node at the same extent; launch ms: of it, until the forward pass "
    "is queued"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """The time of one kind of step.

    Attributes:
        nodes: candidate nodes in it.
        threads: threads among which they are spread evenly, a chain of draft tokens for each.
        extent: slots that attention runs over.
        milliseconds: until the chosen tokens are on the host.
        launch_milliseconds: until `ModelRunner.forward` has returned, median; the device may still be at work.
        kv_bytes: keys and values that attention reads beside the weights.
    """

    nodes: int
    threads: int
    extent: int
    milliseconds: Spread
    launch_milliseconds: float
    kv_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The time below which no step that reads every weight can come.

    Attributes:
        weight_bytes: what a step reads of the weights: all but the embeddings, of which it takes a few rows.
        bytes_per_second: the measured bandwidth of the device's memory, reading and writing.
    """

    weight_bytes: int
    bytes_per_second: float

    @property
    def milliseconds(self) -> float:
        """The bound itself."""
        return 1e3 * self.weight_bytes / self.bytes_per_second


def weight_bytes(model: PreTrainedModel) -> int:
    """Bytes of the weights that a step reads."""
    embeddings: Tensor = cast(nn.Embedding, model.get_input_embeddings()).weight
    tied = embeddings is model.get_output_embeddings().weight
    total = sum(parameter.numel() * parameter.element_size() for parameter in cast(nn.Module, model).parameters())
    return total if tied else total - embeddings.numel() * embeddings.element_size()


def bandwidth(device: torch.device, repeats: int = 10) -> float:
    """Bytes per second that a large copy within the device's memory reads and writes, the best of some copies."""
    source = torch.ones(_COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(_WARM_UPS + repeats):
        _synchronize(device)
        start = perf_counter()
        target.copy_(source)
        _synchronize(device)
        seconds.append(perf_counter() - start)
    return 2 * source.numel() / min(seconds[_WARM_UPS:])


def chains(nodes: int, threads: int) -> tuple[list[int], list[int], NDArray[np.bool_]]:
    """Spread nodes among threads, a chain of draft tokens for each.

    Returns:
        `[nodes]` thread of each node; `[nodes]` its depth in its thread's chain; `[nodes, nodes]`: (i, j) is true where
        node j is i or stands above i.
    """
    thread = sorted(node % threads for node in range(nodes))
    depth = [thread[:node].count(thread[node]) for node in range(nodes)]
    same = np.equal.outer(thread, thread)
    return thread, depth, same & np.tri(nodes, dtype=np.bool_)


@torch.inference_mode()
def measure(
    runner: ModelRunner,
    nodes: int,
    threads: int,
    extent: int,
    repeats: int,
) -> StepTime:
    """Time one kind of step.

    Args:
        runner: whose forward passes.
        nodes: candidate nodes.
        threads: threads among which they are spread; at most as many as nodes.
        extent: slots that attention runs over, a multiple of the pool's bucket and more than nodes.
        repeats: timed steps, after a few that warm up.
    """
    device = runner.model.device
    (pool,) = runner.new_pools(1, extent - 1)
    context = extent - 1 - nodes
    rows = [pool.open_row()]
    pool.show(rows[0], pool.acquire(context))
    rows += [pool.fork_row(rows[0]) for _ in range(threads - 1)]
    thread, depth, above = chains(nodes, threads)
    positions = context + np.array(depth)
    launches, totals = [], []
    zero, zeros = np.zeros(1, dtype=np.int64), np.zeros(nodes, dtype=np.int64)
    first = Placement.acquire([pool], zero, np.array(rows[:1]), np.array([context]), np.eye(1) > 0)
    runner.prefill(first, zero, kept=zero)
    first.give_back(np.ones(1, dtype=np.bool_))
    for _ in range(_WARM_UPS + repeats):
        _synchronize(device)
        start = perf_counter()
        placement = Placement.acquire([pool], zeros, np.array(rows)[thread], positions, above)
        logits, _ = runner.forward(placement, zeros)
        launched = perf_counter()
        logits.max(dim=-1).indices.tolist()
        totals.append(1e3 * (perf_counter() - start))
        launches.append(1e3 * (launched - start))
        placement.give_back(np.ones(nodes, dtype=np.bool_))
    milliseconds = Spread.of(totals[_WARM_UPS:])
    assert milliseconds is not None
    assert placement.extent == extent
    return StepTime(
        nodes=nodes,
        threads=threads,
        extent=extent,
        milliseconds=milliseconds,
        launch_milliseconds=float(np.median(launches[_WARM_UPS:])),
        kv_bytes=_kv_bytes(runner.model, extent),
    )


def _kv_bytes(model: PreTrainedModel, extent: int) -> int:
    config = model.config
    head_dim = config.hidden_size // config.num_attention_heads
    per_slot = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim
    return int(per_slot * extent * model.dtype.itemsize)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(steps: Sequence[StepTime], bound: Bound, style: box.Box) -> Table:
    """One line per kind of step; on the terminal a section per extent."""
    alone = {step.extent: step.milliseconds.median for step in steps if step.nodes == 1}
    result = Table(box=style) if style is box.MARKDOWN else Table(box=style, pad_edge=False, padding=0)
    for name in COLUMNS:
        result.add_column(name, justify="right", no_wrap=True)
    for place, step in enumerate(steps):
        if style is not box.MARKDOWN and place and steps[place - 1].extent != step.extent:
            result.add_section()
        spread = step.milliseconds
        one = alone.get(step.extent)
        result.add_row(
            str(step.nodes),
            str(step.threads),
            str(step.extent),
            f"{spread.median:.2f} ({spread.lower_quartile:.2f}-{spread.upper_quartile:.2f})",
            f"{spread.median / bound.milliseconds:.2f}",
            "-" if one is None else f"{spread.median / one:.2f}",
            f"{step.launch_milliseconds:.2f}",
        )
    return result


def describe_bound(bound: Bound) -> str:
    """The bound in words."""
    return (
        f"bound: {bound.weight_bytes / 1e9:.2f} GB of weights / {bound.bytes_per_second / 1e9:.0f} GB/s measured "
        f"= {bound.milliseconds:.2f} ms"
    )


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m benchmarks.gpu_step",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )

    def numbers(default: Sequence[int]) -> dict[str, Any]:
        return {"type": _numbers, "default": ",".join(map(str, default)), "metavar": "N,N"}

    parser.add_argument("--shape", choices=SHAPES, default="llama-7b", help="sizes of the random model")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries out the shape tiny")
    parser.add_argument("--nodes", **numbers(NODES), help="candidate nodes in a step")
    parser.add_argument("--threads", **numbers(THREADS), help="threads in a step; those beyond its nodes are left out")
    parser.add_argument("--extents", **numbers(EXTENTS), help="slots that attention runs over")
    parser.add_argument(
        "--compile", action="store_true", help="compile the forward pass, and on a GPU replay it from CUDA graphs"
    )
    parser.add_argument("--repeats", type=positive, default=20, help="timed steps of a kind")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder of the results")
    return parser


def _numbers(text: str) -> list[int]:
    return sorted({positive(number) for number in text.split(",")})


def check(arguments: argparse.Namespace) -> None:
    """Raise a ValueError that names what cannot be measured, and the remedy."""
    if arguments.device == "cpu" and arguments.shape != "tiny":
        raise ValueError(
            f"shape={arguments.shape!r} is for a GPU; on --device cpu give --shape tiny, which tries it out"
        )
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device='cuda', but this machine has no CUDA GPU that torch can use; run it on one, "
            "or try it out with --device cpu --shape tiny"
        )
    for extent in arguments.extents:
        if extent % EXTENT_BUCKET or extent <= max(arguments.nodes):
            raise ValueError(
                f"extents={extent}: give multiples of {EXTENT_BUCKET} above the {max(arguments.nodes)} nodes of a step"
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the measurement."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        check(arguments)
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    device = torch.device(arguments.device)
    model = random_model(arguments.shape, device)
    runner = ModelRunner(model, Compiler([model]) if arguments.compile else None)
    bound = Bound(weight_bytes=weight_bytes(runner.model), bytes_per_second=bandwidth(device))
    kinds = [
        (nodes, threads, extent)
        for extent in arguments.extents
        for nodes in arguments.nodes
        for threads in arguments.threads
        if threads <= nodes
    ]
    steps = [measure(runner, *kind, arguments.repeats) for kind in tqdm(kinds, unit="kind")]
    settings = {
        "shape": arguments.shape,
        "device": device_name(device),
        "dtype": str(runner.model.dtype).removeprefix("torch."),
        "compiled": arguments.compile,
        "torch": torch.__version__,
        **asdict(bound),
        "bound_milliseconds": bound.milliseconds,
    }
    write_report(arguments.output_dir, settings, steps, bound)
    output = Console()
    output.print(table(steps, bound, box.SIMPLE_HEAD))
    output.print(describe_bound(bound))
    output.print(LEGEND, style="dim")
    output.print(f"results: {arguments.output_dir}", markup=False)
    return 0


def write_report(folder: Path, settings: dict[str, Any], steps: Sequence[StepTime], bound: Bound) -> None:
    """Write `steps.json` and `steps.md`."""
    report = {"settings": settings, "steps": [asdict(step) for step in steps]}
    (folder / "steps.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    lines = "\n".join(f"- {name}: {value}" for name, value in settings.items())
    text = as_markdown(table(steps, bound, box.MARKDOWN))
    report_text = f"# Step time\n\n{text}\n{describe_bound(bound)}. {LEGEND}.\n\n{lines}\n"
    (folder / "steps.md").write_text(report_text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
