"""`medusa-apar eval replay`: recorded answers of real models drive the engine, a calibrated simulation.

Extraction says where a recorded answer forks, and published accuracies of Medusa heads, with one fitted parameter,
which draft tokens are right. The engine does all its work on a backbone of the given size with random weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console

from medusa_apar import fingerprint
from medusa_apar.argument_types import ArgumentParser, not_negative, positive
from medusa_apar.modes import Mode
from medusa_apar.runner.dtype import DTYPES, dtype_named
from medusa_apar.train.training_record import commit

from ..decoding.decode import Limits
from ..measurement.provenance import device_name
from ..measurement.question_sets import BENCHMARKS, find_questions, read_questions
from ..measurement.setup import INTERRUPTED
from ..measurement.shapes import SHAPES, random_model
from ..speed.answers_table import write_answers_table
from ..speed.speed_up_plot import plot_speed_up
from ..speed.summary import summarize
from ..speed.summary_table import LEGEND, markdown, terminal_table
from ..speed.thread_summary import LEGEND as THREADS_LEGEND
from ..speed.thread_summary import summarize_threads, threads_markdown, threads_table
from ..speed.turns import TurnStore
from .calibration import Calibration, calibrate
from .hits import HitModel
from .recorded import read_recorded
from .replay_run import RECORDED_TREE, ReplayRun
from .scripted import ScriptedModel

SIMULATION = "Calibrated simulation"
VOCABULARY = 32000
"""Ids for the tokens of a script, also of a shape with fewer."""
_MODES = (*Mode, RECORDED_TREE)


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="medusa-apar eval replay", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--answers", type=Path, required=True, help="recorded answers, in FastChat's format")
    parser.add_argument(
        "--questions", default=BENCHMARKS[0], help=f"what they answer: a file, or one of {', '.join(BENCHMARKS)}"
    )
    parser.add_argument(
        "--calibrate-on",
        type=Path,
        help="MT-Bench answers with recorded steps, as medusa-llm writes them, to fit the correlation on; "
        "by default --answers",
    )
    parser.add_argument("--backbone", choices=SHAPES, default="llama-110m", help="sizes of the random backbone")
    parser.add_argument("--modes", default=",".join(_MODES), help="which modes, separated by commas")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights")
    parser.add_argument("--max-threads", type=positive, default=Limits().max_threads, help="threads in a step")
    parser.add_argument("--max-depth", type=positive, default=3, help="depth at which forks end")
    parser.add_argument("--limit", type=positive, help="take only the first questions")
    parser.add_argument("--seed", type=not_negative, default=0, help="of the hits")
    parser.add_argument(
        "--output-dir", type=Path, required=True, help="folder of the results; what is finished is kept"
    )
    return parser


def _modes(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in _MODES:
            raise ValueError(f"mode {name!r} is unknown; choose from {', '.join(_MODES)}")
    return names


def calibration_line(calibration: Calibration) -> str:
    """What was fitted, and how well it holds."""
    return (
        f"correlation of the heads' errors {calibration.correlation:.3f}, fitted on half of the questions: "
        f"{calibration.simulated:.3f} tokens per step there ({calibration.recorded:.3f} recorded), "
        f"{calibration.unseen_simulated:.3f} on the other half ({calibration.unseen_recorded:.3f} recorded, "
        f"{calibration.error:+.1%}); independent heads would give {calibration.independent:.3f}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = _parser().parse_args(argv)
    modes = _modes(arguments.modes)
    questions = read_questions(find_questions(arguments.questions))
    turns = read_recorded(arguments.answers, questions)
    on = arguments.calibrate_on
    calibration = calibrate(turns if on is None else read_recorded(on, read_questions(find_questions("mt_bench"))))
    asked = questions[: arguments.limit]
    kept = {question.question_id for question in asked}
    turns = [turn for turn in turns if turn.question_id in kept]
    unanswered = sum(len(question.turns) for question in asked) - len(turns)
    hits = HitModel.published(calibration.correlation)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype_named(arguments.dtype)
    torch.manual_seed(0)
    scripted = ScriptedModel(random_model(arguments.backbone, device, dtype, vocab_size=VOCABULARY), hits)
    settings: dict[str, Any] = {
        "what": SIMULATION,
        "answers": arguments.answers.name,
        "answers_digest": fingerprint.of_items(turns),
        "questions": arguments.questions,
        "unanswered": unanswered,
        "questions_digest": fingerprint.of_items(questions),
        "backbone": arguments.backbone,
        "dtype": str(dtype).removeprefix("torch."),
        "modes": modes,
        **{field.name: getattr(calibration, field.name) for field in fields(calibration)},
        "max_threads": arguments.max_threads,
        "max_depth": arguments.max_depth,
        "limit": arguments.limit,
        "seed": arguments.seed,
        "device": device_name(device),
        "cpu_threads": torch.get_num_threads(),
        "commit": commit(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    store = TurnStore(arguments.output_dir, settings)
    limits = Limits(max_threads=arguments.max_threads, max_depth=arguments.max_depth)
    with store:
        try:
            ReplayRun(scripted, turns, hits, modes, limits, arguments.seed).run(store)
        except KeyboardInterrupt:
            done = len(store.records)
            print(f"interrupted; {done} turns are kept, and the same command goes on from there", file=sys.stderr)
            return INTERRUPTED
    write_report(store, modes, calibration)
    return 0


def write_report(store: TurnStore, modes: Sequence[str], calibration: Calibration) -> None:
    """Print the tables, and write `summary.json`, `summary.md`, `answers.csv` and `speedup.png` beside the turns."""
    rows = summarize(store.records.values(), modes)
    threads = summarize_threads(store.records.values(), [mode for mode in modes if mode != RECORDED_TREE])
    folder, line = store.folder, calibration_line(calibration)
    title = f"{SIMULATION}: {store.settings['answers']} on a random {store.settings['backbone']}"
    summary = {
        "settings": store.settings,
        "rows": [asdict(row) for row in rows],
        "threads": [asdict(row) for row in threads],
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    listed = "\n".join(f"- {name}: {value}" for name, value in store.settings.items())
    text = f"# {title}\n\n{line}.\n\n{markdown(rows)}\n{LEGEND}.\n"
    text += f"\n## Threads\n\n{threads_markdown(threads)}\n{THREADS_LEGEND}.\n\n{listed}\n"
    (folder / "summary.md").write_text(text, encoding="utf-8")
    write_answers_table(store.records.values(), folder / "answers.csv", SIMULATION)
    plot_speed_up(rows, folder / "speedup.png", title=f"{title}: speed-up, medians over questions and quartiles")
    output = Console()
    output.print(title, style="bold")
    output.print(terminal_table(rows))
    output.print(LEGEND, style="dim")
    output.print(threads_table(threads))
    output.print(THREADS_LEGEND, style="dim", markup=False)
    output.print(f"{SIMULATION}; {line}")
    if unanswered := store.settings["unanswered"]:
        output.print(f"{unanswered} turns of the questions have no recorded answer with text and are left out")
    output.print(f"results: {folder}; figures of every answer in answers.csv", markup=False)
