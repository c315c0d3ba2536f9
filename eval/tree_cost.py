"""What trees cost: a backbone that learnt from trees beside one that learnt from the same responses laid out flat.

    python -m medusa_apar.eval.tree_cost --model DIR --data FILE --eval-data FILE --out runs/tree-cost --max_steps 300

A path of a tree does not see the details of the others. `tree_cost` of `medusa-apar eval backbone` reads trees and flat
text with one backbone, and so tells what that one is used to; here each layout is read by the backbone that learnt it,
from the same start and with the same arguments, those of `medusa-apar train backbone`. The same command goes on where
it was interrupted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from medusa_apar.train.backbone import main as train_backbone
from medusa_apar.train.command import InputError
from medusa_apar.train.responses import BadRows, Response, read_responses
from medusa_apar.train.row_arguments import check_exist
from medusa_apar.train.structure import extract
from medusa_apar.train.trainer import FLAT, STRUCTURED

from .backbone import EvaluationArguments, measure_backbone
from .tables import as_markdown


@dataclass(frozen=True, slots=True)
class Layout:
    """How structured responses become rows.

    Attributes:
        name: in the table, and of the folder of the backbone that learnt it.
        rows: the name that evaluations give to held-out rows of this layout.
        arguments: those of `medusa-apar train backbone` that make it.
    """

    name: str
    rows: str
    arguments: tuple[str, ...]


TREES = Layout("trees", STRUCTURED, ("--structured_share", "1"))
PLAIN = Layout("flat", FLAT, ("--structured_share", "0", "--max_depth", "1"))
LAYOUTS = (TREES, PLAIN)

LEGEND = (
    "nats per token of held-out text, control tokens not counted; a path of a tree does not see the details of others"
)


def write_structured(path: Path, responses: Iterable[Response]) -> int:
    """Write those responses that make a tree, as conversations, and tell how many they are."""
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for response in responses:
            if extract(response.response) is not None:
                answer = {"role": "assistant", "content": response.response}
                file.write(json.dumps({"messages": [*response.question, answer]}) + "\n")
                written += 1
    return written


def as_table(losses: dict[str, dict[str, float]]) -> Table:
    """A row for each backbone by what it learnt, a column for each layout that it reads."""
    table = Table("learnt", *(f"reads {layout.name}" for layout in LAYOUTS), box=box.MARKDOWN)
    for learnt, by_layout in losses.items():
        table.add_row(learnt, *(f"{loss:.3f}" for loss in by_layout.values()))
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Train both and compare them."""
    parser = argparse.ArgumentParser(
        prog="python -m medusa_apar.eval.tree_cost",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
        epilog="all further arguments are those of `medusa-apar train backbone`",
    )
    parser.add_argument("--model", required=True, help="folder or hub id of the backbone that both start from")
    parser.add_argument("--data", required=True, help="conversations; those without structure are left out")
    parser.add_argument("--eval-data", required=True, help="held-out conversations")
    parser.add_argument("--max_length", default="2048", help="tokens in a row")
    parser.add_argument("--out", type=Path, default=Path("runs/tree-cost"), help="folder of the twins and the table")
    arguments, training = parser.parse_known_args(argv)

    structured = arguments.out / "structured.jsonl"
    bad_rows = BadRows()
    try:
        check_exist("--data", [arguments.data])
        check_exist("--eval-data", [arguments.eval_data])
        arguments.out.mkdir(parents=True, exist_ok=True)
        written = write_structured(structured, read_responses(arguments.data, bad_rows))
    except InputError as error:
        parser.error(str(error))
    bad_rows.warn()
    if not written:
        parser.error(f"--data {arguments.data}: has no response that makes a tree; give answers with lists")

    losses: dict[str, dict[str, float]] = {}
    for layout in LAYOUTS:
        folder = arguments.out / layout.name
        train_backbone(
            [
                *training, *layout.arguments, "--model", arguments.model, "--data", str(structured),
                "--max_length", arguments.max_length, "--output_dir", str(folder),
            ]
        )  # fmt: skip
        measured = EvaluationArguments(model=str(folder), max_length=int(arguments.max_length))
        figures = measure_backbone([arguments.eval_data], measured)
        losses[layout.name] = {read.name: figures[f"{read.rows}_text_loss"] for read in LAYOUTS}
    cost = losses[TREES.name][TREES.name] / losses[PLAIN.name][PLAIN.name] - 1
    table = as_table(losses)
    Console().print(table)
    Console().print(f"cost of trees: {cost:+.1%}\n{LEGEND}")
    (arguments.out / "summary.md").write_text(
        f"{as_markdown(table)}\nCost of trees: {cost:+.1%}. {LEGEND}\n", encoding="utf-8"
    )
    summary = {"responses": written, "text_loss": losses, "tree_cost": cost}
    (arguments.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
