"""`python -m benchmarks.scaling`: where the gain of threads and draft tokens ends.

Answers of equal paragraphs, written by scripted models: a calibrated simulation. Threads, rows of a batch, tokens of an
answer and the backbone grow one at a time from a base point.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from medusa_apar.argument_types import ArgumentParser, names_of, positive, positives, share
from medusa_apar.eval.measurement.provenance import environment
from medusa_apar.eval.measurement.shapes import SHAPES
from medusa_apar.eval.measurement.summary_files import write_summary
from medusa_apar.eval.replay.command import SIMULATION
from medusa_apar.eval.replay.hits import HitModel
from medusa_apar.eval.replay.scripted import scripted_model
from medusa_apar.linears.dtype import DTYPES, dtype_named
from medusa_apar.modes import Mode

from .points import Axis, Point, all_points, script_of_point
from .scaling_plot import plot_scaling
from .scaling_run import ScalingStore, run_points
from .scaling_summary import summarize

CORRELATION = 0.29
"""Of the heads' errors, as `medusa-apar eval replay` fits it to a recorded run of Vicuna-7B."""
BASE = Point(backbone="llama-110m", threads=8, rows=1, tokens=256)


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    sweep = parser.add_argument_group("what grows", "values separated by commas; a single one leaves the axis out")
    sweep.add_argument("--threads", type=positives, default="1,2,4,8,16", help="of an answer")
    sweep.add_argument("--rows", type=positives, default="1,2,4,8,16", help="of a batch")
    sweep.add_argument("--tokens", type=positives, default="64,128,256,512,1024", help="of an answer")
    sweep.add_argument(
        "--backbones", dest="backbone", type=names_of("backbone", SHAPES), default="llama-15m,llama-42m,llama-110m",
        help="by size",
    )  # fmt: skip
    base = parser.add_argument_group("the base point", "what the others stay at while one grows")
    base.add_argument("--at-threads", type=positive, default=BASE.threads, help="of an answer")
    base.add_argument("--at-rows", type=positive, default=BASE.rows, help="of a batch")
    base.add_argument("--at-tokens", type=positive, default=BASE.tokens, help="of an answer")
    base.add_argument("--at-backbone", choices=SHAPES, default=BASE.backbone, help="sizes of the random backbone")
    modes = names_of("mode", tuple(Mode))
    parser.add_argument("--modes", type=modes, default=",".join(Mode), help="which modes, separated by commas")
    parser.add_argument("--rounds", type=positive, default=3, help="how often every point is measured")
    parser.add_argument("--correlation", type=share, default=CORRELATION, help="of the heads' errors")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights")
    parser.add_argument(
        "--output-dir", type=Path, required=True, help="folder of the results; what is finished is kept"
    )
    return parser


def main(argv: Sequence[str]) -> None:
    """Measure what is missing, and write the tables and the picture."""
    parser = _parser()
    try:
        measure(parser.parse_args(argv))
    except (ValueError, OSError) as error:
        parser.error(str(error))


def measure(arguments: argparse.Namespace) -> None:
    """Do what the arguments say.

    Raises:
        ValueError: nothing grows, an answer is too short for its threads, or the folder holds another measurement.
    """
    base = Point(arguments.at_backbone, arguments.at_threads, arguments.at_rows, arguments.at_tokens)
    sweeps = {axis: values for axis in Axis if len(values := getattr(arguments, axis)) > 1}
    modes = arguments.modes
    points = all_points(base, sweeps)
    if not points:
        raise ValueError("nothing grows: give more than one value to one of the axes")
    for point in points:
        script_of_point(point, forks=True)
    dtype, hits = dtype_named(arguments.dtype), HitModel.published(arguments.correlation)
    settings = {
        "what": SIMULATION,
        "base": asdict(base),
        "sweeps": sweeps,
        "modes": modes,
        "correlation": arguments.correlation,
        "dtype": str(dtype).removeprefix("torch."),
        **environment(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
    }
    store = ScalingStore(arguments.output_dir, settings)
    with store:
        run_points(store, points, modes, arguments.rounds, lambda shape: scripted_model(shape, dtype, hits))
    title, tables = f"{SIMULATION}: what grows, from {base}", summarize(store.records, base, sweeps, modes)
    write_summary(store.folder, title, store.settings, tables)
    plot_scaling(tables, store.folder / "scaling.png", title=title)


if __name__ == "__main__":
    main(sys.argv[1:])
