"""`medusa-apar eval batch`: tokens/s of the modes by batch size, against one token per step."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console

from medusa_apar.argument_types import ArgumentParser, positive, positives

from ..decoding.decode import GENERATE, Limits
from ..measurement.question_sets import load_questions
from ..measurement.setup import INTERRUPTED, add_arguments, describe, limits_of, load_model, modes_of
from .batch_run import BatchRun, BatchStore
from .batch_summary import LEGEND, BatchRow, markdown, summarize, terminal_table

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
_LIMITS = Limits(max_new_tokens=128)


def write_report(run: BatchRun, store: BatchStore) -> list[BatchRow]:
    """Write `summary.jsonl`, a line per batch size and mode, and `summary.md` beside the batches."""
    rows = summarize(store.records.values(), run.modes)
    lines = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
    (store.folder / "summary.jsonl").write_text(lines, encoding="utf-8")
    settings = "\n".join(f"- {name}: {value}" for name, value in store.settings.items())
    text = f"# Speed by batch size\n\n{markdown(rows)}\n{LEGEND}.\n\n{settings}\n"
    (store.folder / "summary.md").write_text(text, encoding="utf-8")
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="medusa-apar eval batch", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add_arguments(parser, questions="lists", limits=_LIMITS)
    sizes = ",".join(str(size) for size in BATCH_SIZES)
    parser.add_argument("--batch-sizes", type=positives, default=sizes, help="prompts in a batch, separated by commas")
    parser.add_argument("--rounds", type=positive, default=5, help="how often every batch size is measured")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = _parser().parse_args(argv)
    modes = list(dict.fromkeys([*([GENERATE] if arguments.generate else []), *modes_of(arguments.modes)]))
    questions = load_questions(arguments.questions)[: arguments.limit]
    model, tokenizer = load_model(arguments.model, arguments.dtype, arguments.heads)
    if arguments.compile:
        model.compile()
    run = BatchRun(model, tokenizer, questions, modes, arguments.batch_sizes, limits_of(arguments))
    store = BatchStore(
        arguments.output_dir, describe(model, arguments, questions, modes) | {"batch_sizes": arguments.batch_sizes}
    )
    with store:
        try:
            run.run(store, arguments.rounds)
        except KeyboardInterrupt:
            kept = len(store.records)
            print(f"interrupted; {kept} batches are kept, and the same command goes on from there", file=sys.stderr)
            return INTERRUPTED
    output = Console()
    output.print(terminal_table(write_report(run, store)))
    output.print(LEGEND, style="dim")
    output.print(f"results: {arguments.output_dir}", markup=False)
    return 0
