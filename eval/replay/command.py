"""`medusa-apar eval replay`: recorded answers of real models drive the engine, a calibrated simulation.

Extraction says where a recorded answer forks, and published accuracies of Medusa heads, with one fitted parameter,
which draft tokens are right. The engine does all its work on a backbone of the given size with random weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from medusa_apar import fingerprint
from medusa_apar.argument_types import names_of, not_negative
from medusa_apar.linears.dtype import dtype_named
from medusa_apar.modes import Mode

from ..decoding.decode import Limits
from ..measurement.provenance import environment
from ..measurement.question_sets import BENCHMARKS, load_questions
from ..measurement.setup import command_parser
from ..measurement.shapes import SHAPES
from ..measurement.summary_files import write_summary
from ..speed.speed_tables import speed_tables
from ..speed.speed_up_plot import plot_speed_up
from ..speed.turns import TurnStore
from .calibration import Calibration, calibrate
from .hits import HitModel
from .recorded import read_recorded
from .replay_run import RECORDED_TREE, ReplayRun
from .scripted import scripted_model

SIMULATION = "Calibrated simulation"
_MODES = (*Mode, RECORDED_TREE)


def _parser() -> argparse.ArgumentParser:
    shared = ("questions", "dtype", "max_threads", "max_depth", "limit", "output_dir")
    parser = command_parser("replay", __doc__, shared, questions=BENCHMARKS[0], max_depth=3)
    parser.add_argument("--answers", type=Path, required=True, help="recorded answers, in FastChat's format")
    parser.add_argument(
        "--calibrate-on", type=Path,
        help="MT-Bench answers with recorded steps, as medusa-llm writes them, to fit the correlation on; "
        "by default --answers",
    )  # fmt: skip
    parser.add_argument("--backbone", choices=SHAPES, default="llama-110m", help="sizes of the random backbone")
    parser.add_argument("--modes", type=names_of("mode", _MODES), default=",".join(_MODES), help="separated by commas")
    parser.add_argument("--seed", type=not_negative, default=0, help="of the hits")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = _parser().parse_args(argv)
    questions = load_questions(arguments.questions)
    turns = read_recorded(arguments.answers, questions)
    on = arguments.calibrate_on
    calibration = calibrate(turns if on is None else read_recorded(on, load_questions("mt_bench")))
    asked = {question.question_id: len(question.turns) for question in questions[: arguments.limit]}
    turns = [turn for turn in turns if turn.question_id in asked]
    dtype = dtype_named(arguments.dtype)
    scripted = scripted_model(arguments.backbone, dtype, HitModel.published(calibration.correlation))
    same = ("questions", "backbone", "modes", "max_threads", "max_depth", "limit", "seed")
    settings = {
        "what": SIMULATION,
        "answers": arguments.answers.name,
        "answers_digest": fingerprint.of_items(turns),
        "questions_digest": fingerprint.of_items(questions),
        "unanswered": sum(asked.values()) - len(turns),
        "dtype": str(dtype).removeprefix("torch."),
        **{name: getattr(arguments, name) for name in same},
        **asdict(calibration),
        **environment(scripted.model.device),
    }
    store = TurnStore(arguments.output_dir, settings)
    limits = Limits(max_threads=arguments.max_threads, max_depth=arguments.max_depth)
    with store:
        ReplayRun(scripted, turns, arguments.modes, limits, arguments.seed).run(store)
    write_report(store, arguments.modes, calibration)
    return 0


def write_report(store: TurnStore, modes: Sequence[str], calibration: Calibration) -> None:
    """Print the tables; write the summary and `speedup.png` beside the turns."""
    folder = store.folder
    title = f"{SIMULATION}: {store.settings['answers']} on a random {store.settings['backbone']}"
    speed, *others = speed_tables(list(store.records.values()), modes)
    speed = replace(speed, note=str(calibration))
    write_summary(folder, title, store.settings, [speed, *others])
    plot_speed_up(speed, folder / "speedup.png", title=f"{title}: speed-up, medians over questions and quartiles")
    if unanswered := store.settings["unanswered"]:
        print(f"{unanswered} turns of the questions have no recorded answer with text and are left out")
