"""`medusa-apar eval speed`: tokens/s and tokens per step of the modes, side by side on a question set."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from medusa_apar import fingerprint
from medusa_apar.argument_types import ArgumentParser, not_negative, positive, share
from medusa_apar.model import MedusaAparModel
from medusa_apar.modes import Mode

from ..decoding.baselines import Baseline, BaselineOptions, is_baseline, load_assistant
from ..decoding.decode import FORK_ERROR_RATE, Limits
from ..decoding.variants import FIXED_TREE, WRONG_FORKS, variant_of
from ..measurement.question_sets import load_questions
from ..measurement.setup import INTERRUPTED, add_arguments, describe, limits_of, load_model, modes_of
from .acceptance_summary import LEGEND as ACCEPTANCE_LEGEND
from .acceptance_summary import AcceptanceRow, acceptance_markdown, acceptance_table, summarize_acceptance
from .answer_writer import write_answers
from .answers_table import write_answers_table
from .speed_run import SpeedRun
from .speed_up_plot import plot_speed_up
from .summary import SummaryRow, summarize
from .summary_table import LEGEND, markdown, terminal_table
from .thread_summary import LEGEND as THREADS_LEGEND
from .thread_summary import ThreadsRow, summarize_threads, threads_markdown, threads_table
from .turns import TurnStore


def write_report(
    run: SpeedRun,
    store: TurnStore,
    rows: Sequence[SummaryRow],
    threads: Sequence[ThreadsRow],
    acceptance: Sequence[AcceptanceRow],
) -> None:
    """Write `summary.json`, `summary.md`, `answers.csv`, `speedup.png` and `answers/` beside the turns."""
    folder = store.folder
    summary = {
        "settings": store.settings,
        "rows": [asdict(row) for row in rows],
        "threads": [asdict(row) for row in threads],
        "acceptance": [asdict(row) for row in acceptance],
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    settings = "\n".join(f"- {name}: {value}" for name, value in store.settings.items())
    tables = f"{markdown(rows)}\n{LEGEND}.\n"
    if threads:
        tables += f"\n## Threads\n\n{threads_markdown(threads)}\n{THREADS_LEGEND}.\n"
    if acceptance:
        tables += f"\n## Acceptance\n\n{acceptance_markdown(acceptance)}\n{ACCEPTANCE_LEGEND}.\n"
    (folder / "summary.md").write_text(f"# Speed\n\n{tables}\n{settings}\n", encoding="utf-8")
    write_answers_table(store.records.values(), folder / "answers.csv")
    plot_speed_up(rows, folder / "speedup.png")
    (folder / "answers").mkdir(exist_ok=True)
    for mode in run.modes:
        write_answers(folder / "answers" / f"{mode}.jsonl", store.settings["model"], mode, run.questions, store.records)


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
        "--fork-errors",
        type=share,
        metavar="RATE",
        nargs="?",
        const=FORK_ERROR_RATE,
        help="medusa-apar with spurious, missing and misplaced forks at this rate, beside the modes",
    )
    parser.add_argument(
        "--sample", action="store_true", help="sample as the model's generation config says, not greedily"
    )
    parser.add_argument("--prompt-lookup-tokens", type=positive, help="draft tokens of prompt lookup, by default 10")
    return parser


def _check_baselines(arguments: argparse.Namespace) -> None:
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
    modes = modes_of(arguments.modes)
    fixed = [FIXED_TREE] if arguments.baselines and Mode.MEDUSA_APAR in modes else []
    wrong = [] if arguments.fork_errors is None else list(WRONG_FORKS)
    return list(dict.fromkeys([*baselines, *modes, *fixed, *wrong]))


def _baseline_options(arguments: argparse.Namespace, model: MedusaAparModel) -> BaselineOptions:
    return BaselineOptions(
        arguments.prompt_lookup_tokens or BaselineOptions().prompt_lookup_tokens,
        None if arguments.assistant is None else load_assistant(arguments.assistant, model),
    )


def _describe_baselines(run: SpeedRun) -> dict[str, Any]:
    assistant = run.baselines.assistant
    lookup = Baseline.PROMPT_LOOKUP in run.modes
    return {
        "prompt_lookup_tokens": run.baselines.prompt_lookup_tokens if lookup else None,
        "assistant_weights": None if assistant is None else fingerprint.of_weights(assistant),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = _parser().parse_args(argv)
    _check_baselines(arguments)
    modes = _all_modes(arguments)
    questions = load_questions(arguments.questions)[: arguments.limit]
    model, tokenizer = load_model(arguments.model, arguments.dtype, arguments.heads)
    if arguments.compile:
        model.compile()
    baselines = _baseline_options(arguments, model)
    run = SpeedRun(model, tokenizer, questions, modes, limits_of(arguments), baselines)
    store = TurnStore(arguments.output_dir, describe(model, arguments, questions, modes) | _describe_baselines(run))
    with store:
        try:
            run.run(store, warm_up=arguments.warmup)
        except KeyboardInterrupt:
            kept = len(store.records)
            print(f"interrupted; {kept} turns are kept, and the same command goes on from there", file=sys.stderr)
            return INTERRUPTED
    rows = summarize(store.records.values(), run.modes)
    threads = summarize_threads(store.records.values(), run.modes)
    drafting = [mode for mode in run.modes if not is_baseline(mode) and variant_of(mode).mode.medusa]
    acceptance = summarize_acceptance(store.records.values(), drafting)
    write_report(run, store, rows, threads, acceptance)
    output = Console()
    output.print(terminal_table(rows))
    output.print(LEGEND, style="dim")
    if threads:
        output.print(threads_table(threads))
        output.print(THREADS_LEGEND, style="dim", markup=False)
    if acceptance:
        output.print(acceptance_table(acceptance))
        output.print(ACCEPTANCE_LEGEND, style="dim", markup=False)
    skipped = sum(record.skipped is not None for record in store.records.values())
    if skipped:
        output.print(f"{skipped} turns were skipped; {store.path} says why")
    output.print(f"results: {arguments.output_dir}", markup=False)
    return 0
