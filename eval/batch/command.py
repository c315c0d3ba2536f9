"""`medusa-apar eval batch`: tokens/s of the modes by batch size, against one token per step."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from medusa_apar.argument_types import positive, positives

from ..decoding.decode import GENERATE
from ..measurement.question_sets import load_questions
from ..measurement.setup import DECODING, command_parser, describe, limits_of, load_model
from ..measurement.summary_files import write_summary
from .batch_run import BatchRun, BatchStore
from .batch_summary import summarize

BATCH_SIZES = (1, 2, 4, 8, 16, 32)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("batch", __doc__, DECODING, questions="lists", max_new_tokens=128)
    sizes = ",".join(str(size) for size in BATCH_SIZES)
    parser.add_argument("--batch-sizes", type=positives, default=sizes, help="prompts in a batch, separated by commas")
    parser.add_argument("--rounds", type=positive, default=5, help="how often every batch size is measured")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = _parser().parse_args(argv)
    modes = [*([GENERATE] if arguments.generate else []), *arguments.modes]
    questions = load_questions(arguments.questions)[: arguments.limit]
    model, tokenizer = load_model(
        arguments.model, arguments.dtype, arguments.heads, arguments.weights, in_place=not arguments.generate
    )
    if arguments.compile:
        model.compile()
    run = BatchRun(model, tokenizer, questions, modes, arguments.batch_sizes, limits_of(arguments))
    store = BatchStore(
        arguments.output_dir, describe(model, arguments, questions, modes) | {"batch_sizes": arguments.batch_sizes}
    )
    with store:
        run.run(store, arguments.rounds)
    write_summary(store.folder, "Speed by batch size", store.settings, [summarize(store.records.values(), modes)])
    return 0
