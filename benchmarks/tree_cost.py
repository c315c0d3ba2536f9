"""What trees cost: a backbone that learnt from trees beside one that learnt from the same responses laid out flat.

    python -m benchmarks.tree_cost --model DIR --data FILE --eval_data FILE --output_dir runs/tree-cost --max_steps 300

A path of a tree does not see the details of the others. `tree_cost` of `medusa-apar eval backbone` reads trees and flat
text with one backbone, and so tells what that one is used to; here each layout is read by the backbone that learnt it,
from the same start and with the same arguments, those of `medusa-apar train backbone`. The same command goes on where
it was interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from transformers import HfArgumentParser

from medusa_apar.eval.measurement.tables import as_markdown
from medusa_apar.train.backbone.held_out_figures import measure_backbone
from medusa_apar.train.backbone.training import held_out_rows
from medusa_apar.train.backbone.training import main as train_backbone
from medusa_apar.train.command_line import InputError
from medusa_apar.train.rows.responses import BadRows, Response, read_responses
from medusa_apar.train.rows.row_arguments import RowArguments, add_control_tokens, check_exist
from medusa_apar.train.structure import Rules, extract
from medusa_apar.train.trainer import FLAT, STRUCTURED


@dataclass(frozen=True, slots=True)
class Layout:
    """How structured responses become rows.

    Attributes:
        name: in the table, and of the folder of the backbone that learnt it.
        rows: the name that evaluations give to held-out rows of this layout.
        structured_share: of its rows; those of depth 1, which are plain text, count as unstructured.
    """

    name: str
    rows: str
    structured_share: str


TREES = Layout("trees", STRUCTURED, "1")
PLAIN = Layout("flat", FLAT, "0")
LAYOUTS = (TREES, PLAIN)

LEGEND = (
    "nats per token of held-out text, control tokens not counted; a path of a tree does not see the details of others"
)


def write_structured(path: Path, responses: Iterable[Response], rules: Rules) -> int:
    """Write those responses that make a tree, as conversations, and tell how many they are."""
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for response in responses:
            if extract(response.response, rules) is not None:
                row = {"prompt": response.prompt, "response": response.response}
                file.write(json.dumps(row | {"history": response.history, "tools": response.tools}) + "\n")
                written += 1
    return written


def as_table(losses: dict[str, dict[str, float]]) -> Table:
    """A row for each backbone by what it learnt, a column for each layout that it reads."""
    table = Table("learnt", *(f"reads {layout.name}" for layout in LAYOUTS), box=box.MARKDOWN)
    for learnt, by_layout in losses.items():
        table.add_row(learnt, *(f"{loss:.3f}" for loss in by_layout.values()))
    return table


@dataclass(kw_only=True)
class TreeCostArguments(RowArguments):
    """What both learn and read, and where it goes."""

    data: str = field(metadata={"help": "conversations; those without structure are left out"})
    eval_data: str = field(metadata={"help": "held-out conversations"})
    output_dir: str = field(default="runs/tree-cost", metadata={"help": "folder of the two backbones and the table"})


def compare_layouts(arguments: TreeCostArguments, training: Sequence[str]) -> None:
    """Train a backbone on each layout and print what each reads.

    Args:
        arguments: of both.
        training: further arguments of `medusa-apar train backbone`.

    Raises:
        InputError: there are no structured responses to learn from, or to read.
    """
    check_exist("--data", [arguments.data])
    check_exist("--eval_data", [arguments.eval_data])
    tokenizer = arguments.tokenizer()
    add_control_tokens(tokenizer)
    if STRUCTURED not in held_out_rows([arguments.eval_data], arguments, tokenizer):
        raise InputError(
            f"--eval_data {arguments.eval_data}: has no response that makes a tree; give answers with lists"
        )
    out = Path(arguments.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    structured = out / "structured.jsonl"
    bad_rows = BadRows()
    written = write_structured(structured, read_responses(arguments.data, bad_rows), arguments.structure)
    bad_rows.warn()
    if not written:
        raise InputError(f"--data {arguments.data}: has no response that makes a tree; give answers with lists")

    rules = ["--rules", *arguments.rules, "--min_items", str(arguments.min_items)]
    losses: dict[str, dict[str, float]] = {}
    for layout in LAYOUTS:
        folder = out / layout.name
        depth = arguments.max_depth if layout is TREES else 1
        train_backbone(
            [
                *training, *rules, "--max_depth", str(depth), "--structured_share", layout.structured_share,
                "--model", arguments.model, "--data", str(structured), "--max_length", str(arguments.max_length),
                "--output_dir", str(folder),
            ]
        )  # fmt: skip
        figures = measure_backbone([arguments.eval_data], replace(arguments, model=str(folder)))
        losses[layout.name] = {read.name: figures[f"{read.rows}_text_loss"] for read in LAYOUTS}
    cost = losses[TREES.name][TREES.name] / losses[PLAIN.name][PLAIN.name] - 1
    table = as_table(losses)
    Console().print(table)
    Console().print(f"cost of trees: {cost:+.1%}\n{LEGEND}")
    (out / "summary.md").write_text(f"{as_markdown(table)}\nCost of trees: {cost:+.1%}. {LEGEND}\n", encoding="utf-8")
    summary = {"responses": written, "text_loss": losses, "tree_cost": cost}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = HfArgumentParser(
        TreeCostArguments,  # type: ignore[arg-type]
        prog="python -m benchmarks.tree_cost",
        epilog="all further arguments are those of `medusa-apar train backbone`",
    )
    arguments, training = parser.parse_args_into_dataclasses(
        argv, return_remaining_strings=True, look_for_args_file=False
    )
    try:
        compare_layouts(arguments, training)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
