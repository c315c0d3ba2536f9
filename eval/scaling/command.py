"""`medusa-apar eval scaling`: where the gain of threads and draft tokens ends.

Answers of equal paragraphs, written by scripted models: a calibrated simulation. Threads, rows of a batch, tokens of an
answer and the backbone grow one at a time from a base point.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console

from medusa_apar.argument_types import ArgumentParser, positive, positives, share
from medusa_apar.modes import Mode
from medusa_apar.runner.dtype import DTYPES, dtype_named
from medusa_apar.train.training_record import commit

from ..measurement.provenance import device_name
from ..measurement.setup import INTERRUPTED, modes_of
from ..measurement.shapes import SHAPES, random_model
from ..replay.command import SIMULATION, VOCABULARY
from ..replay.hits import HitModel
from ..replay.scripted import ScriptedModel
from .points import Axis, Point, Sweeps, all_points
from .scaling_plot import plot_scaling
from .scaling_run import ScalingRun, ScalingStore
from .scaling_summary import LEGEND, markdown, summarize, terminal_table
from .workload import script_of_point

CORRELATION = 0.29
"""Of the heads' errors, as `medusa-apar eval replay` fits it to a recorded run of Vicuna-7B."""
BASE = Point(backbone="llama-110m", threads=8, rows=1, tokens=256)


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="medusa-apar eval scaling", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    sweep = parser.add_argument_group("what grows", "values separated by commas; a single one leaves the axis out")
    sweep.add_argument("--threads", type=positives, default="1,2,4,8,16", help="of an answer")
    sweep.add_argument("--rows", type=positives, default="1,2,4,8,16", help="of a batch")
    sweep.add_argument("--tokens", type=positives, default="64,128,256,512,1024", help="of an answer")
    sweep.add_argument("--backbones", type=_shapes, default="llama-15m,llama-42m,llama-110m", help="by size")
    base = parser.add_argument_group("the base point", "what the others stay at while one grows")
    base.add_argument("--at-threads", type=positive, default=BASE.threads, help="of an answer")
    base.add_argument("--at-rows", type=positive, default=BASE.rows, help="of a batch")
    base.add_argument("--at-tokens", type=positive, default=BASE.tokens, help="of an answer")
    base.add_argument("--at-backbone", choices=SHAPES, default=BASE.backbone, help="sizes of the random backbone")
    parser.add_argument("--modes", default=",".join(Mode), help="which modes, separated by commas")
    parser.add_argument("--rounds", type=positive, default=3, help="how often every point is measured")
    parser.add_argument("--correlation", type=share, default=CORRELATION, help="of the heads' errors")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights")
    parser.add_argument(
        "--output-dir", type=Path, required=True, help="folder of the results; what is finished is kept"
    )
    return parser


def _shapes(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in SHAPES:
            raise argparse.ArgumentTypeError(f"{name!r} is no backbone's shape; choose from {', '.join(SHAPES)}")
    return names


def _sweeps(arguments: argparse.Namespace) -> Sweeps:
    values: dict[Axis, Sequence[int | str]] = {
        Axis.THREADS: arguments.threads,
        Axis.ROWS: arguments.rows,
        Axis.TOKENS: arguments.tokens,
        Axis.BACKBONE: arguments.backbones,
    }
    return {axis: grown for axis, grown in values.items() if len(grown) > 1}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = _parser().parse_args(argv)
    base = Point(arguments.at_backbone, arguments.at_threads, arguments.at_rows, arguments.at_tokens)
    sweeps = _sweeps(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype_named(arguments.dtype)
    hits = HitModel.published(arguments.correlation)

    def model_of(backbone: str) -> ScriptedModel:
        torch.manual_seed(0)
        return ScriptedModel(random_model(backbone, device, dtype, vocab_size=VOCABULARY), hits)

    modes = modes_of(arguments.modes)
    points = all_points(base, sweeps)
    if not points:
        raise ValueError("nothing grows: give more than one value to one of the axes")
    for point in points:
        script_of_point(point, forks=True)
    settings: dict[str, Any] = {
        "what": SIMULATION,
        "base": asdict(base),
        "sweeps": sweeps,
        "modes": modes,
        "correlation": arguments.correlation,
        "dtype": str(dtype).removeprefix("torch."),
        "device": device_name(device),
        "cpu_threads": torch.get_num_threads(),
        "commit": commit(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    store = ScalingStore(arguments.output_dir, settings)
    with store:
        try:
            ScalingRun(points, modes, model_of, hits).run(store, arguments.rounds)
        except KeyboardInterrupt:
            done = len(store.records)
            print(f"interrupted; {done} batches are kept, and the same command goes on from there", file=sys.stderr)
            return INTERRUPTED
    write_report(store, base, sweeps, modes)
    return 0


def write_report(store: ScalingStore, base: Point, sweeps: Sweeps, modes: Sequence[str]) -> None:
    """Print the tables, and write `summary.json`, `summary.md` and `scaling.png` beside the points."""
    rows = summarize(store.records, base, sweeps, modes)
    folder = store.folder
    fixed = f"{base.threads} threads, {base.rows} rows, {base.tokens} tokens, {base.backbone}"
    title = f"{SIMULATION}: what grows, from {fixed}"
    summary = {"settings": store.settings, "rows": [asdict(row) for row in rows]}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    listed = "\n".join(f"- {name}: {value}" for name, value in store.settings.items())
    (folder / "summary.md").write_text(f"# {title}\n\n{markdown(rows)}\n{LEGEND}.\n\n{listed}\n", encoding="utf-8")
    plot_scaling(rows, folder / "scaling.png", title=title)
    output = Console()
    output.print(title, style="bold")
    for axis in sweeps:
        output.print(terminal_table(rows, axis))
    output.print(LEGEND, style="dim", markup=False)
    output.print(f"results: {folder}", markup=False)
