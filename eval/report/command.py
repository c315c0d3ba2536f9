"""`medusa-apar eval report DIR...`: one self-contained page, and the same as Markdown, out of other measurements."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from medusa_apar.argument_types import ArgumentParser

from .page import write_page
from .results import read_results


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="medusa-apar eval report", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "folders", metavar="DIR", type=Path, nargs="+",
        help="folders that eval speed, batch, quality, replay or serving wrote",
    )  # fmt: skip
    parser.add_argument("--answer", metavar="QUESTION_ID", help="whose timeline to draw; by default one with threads")
    parser.add_argument("--output-dir", type=Path, default=Path("report"), help="folder of the page")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = _parser().parse_args(argv)
    page = write_page(arguments.output_dir, read_results(arguments.folders), arguments.answer)
    print(f"report: {page}")
    return 0
