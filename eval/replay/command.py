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
from medusa_apar.argument_types import ArgumentParser, names_of, not_negative, positive
from medusa_apar.linears.dtype import DTYPES, dtype_named
from medusa_apar.modes import Mode

from ..decoding.decode import Limits
from ..measurement.provenance import environment
from ..measurement.question_sets import BENCHMARKS, load_questions
from ..measurement.shapes import SHAPES
from ..measurement.summary_files import write_summary
from ..speed.answers_table import write_answers_table
from ..speed.engine_tables import engine_tables
from ..speed.speed_up_plot import plot_speed_up
from ..speed.summary import summarize
from ..speed.turns import TurnStore
from .calibration import Calibration, calibrate
from .hits import HitModel
from .recorded import read_recorded
from .replay_run import RECORDED_TREE, ReplayRun
from .scripted import scripted_model

SIMULATION = "Calibrated simulation"
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
        "--calibrate-on", type=Path,
        help="MT-Bench answers with recorded steps, as medusa-llm writes them, to fit the correlation on; "
        "by default --answers",
    )  # fmt: skip
    parser.add_argument("--backbone", choices=SHAPES, default="llama-110m", help="sizes of the random backbone")
    parser.add_argument(
        "--modes", type=names_of("mode", _MODES), default=",".join(_MODES), help="which modes, separated by commas"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights")
    parser.add_argument("--max-threads", type=positive, default=Limits().max_threads, help="threads in a step")
    parser.add_argument("--max-depth", type=positive, default=3, help="depth at which forks end")
    parser.add_argument("--limit", type=positive, help="take only so many questions, of each category in turn")
    parser.add_argument("--seed", type=not_negative, default=0, help="of the hits")
    parser.add_argument(
        "--output-dir", type=Path, required=True, help="folder of the results; what is finished is kept"
    )
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
    """Print the tables; write the summary, `answers.csv` and `speedup.png` beside the turns."""
    records, folder = list(store.records.values()), store.folder
    title = f"{SIMULATION}: {store.settings['answers']} on a random {store.settings['backbone']}"
    speed = replace(summarize(records, modes), note=str(calibration))
    others = engine_tables(records, [mode for mode in modes if mode != RECORDED_TREE])
    write_summary(folder, title, store.settings, [speed, *others])
    write_answers_table(records, folder / "answers.csv", SIMULATION)
    plot_speed_up(speed, folder / "speedup.png", title=f"{title}: speed-up, medians over questions and quartiles")
    if unanswered := store.settings["unanswered"]:
        print(f"{unanswered} turns of the questions have no recorded answer with text and are left out")
