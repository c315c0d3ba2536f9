"""`medusa-apar eval backbone`: how well a backbone forks on held-out conversations, and what forks cost it.

The figures are those of evaluations during `medusa-apar train backbone`, for a model that is trained already.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table

from medusa_apar.tree.control_tokens import recorded_fork_bias

from ..command_line import Positional, run
from ..rows.row_arguments import RowArguments, check_exist
from ..rows.tree_data import TreeCollator
from ..trainer import BackboneTrainer
from .training import BackboneTrainingArguments, held_out_rows, load_backbone, prepare_for_forks

TIMES = ("runtime", "per_second", "preparation_time", "epoch")
"""Parts of the names of figures that are no property of the model."""


@dataclass(kw_only=True)
class EvaluationArguments(RowArguments):
    """What to measure, and on what rows."""

    batch_size: int = field(default=8, metadata={"help": "rows in a forward pass"})
    fork_bias: float | None = field(
        default=None, metadata={"help": "added to the logit of [Fork] (default: that of the model's config)"}
    )
    output: str | None = field(default=None, metadata={"help": "a JSON file to write the figures to"})


def measure_backbone(
    files: Sequence[str], arguments: RowArguments, batch_size: int = 8, fork_bias: float | None = None
) -> dict[str, float]:
    """The figures of a backbone on conversations, without the times that it took; losses in nats per token.

    Args:
        files: the conversations.
        arguments: the backbone, and how responses become rows.
        batch_size: rows in a forward pass.
        fork_bias: added to the logit of `[Fork]`; None: that of the backbone's config.

    Raises:
        InputError: a file is missing, or there is nothing to measure.
    """
    check_exist("FILE", files)
    model, tokenizer = load_backbone(arguments)
    bias = recorded_fork_bias(model.config) if fork_bias is None else fork_bias
    control = replace(prepare_for_forks(tokenizer, model), fork_bias=bias)
    with TemporaryDirectory() as folder:
        trainer = BackboneTrainer(
            model,
            BackboneTrainingArguments(
                output_dir=folder,
                per_device_eval_batch_size=batch_size,
                use_cpu=not torch.cuda.is_available(),
            ),
            data_collator=TreeCollator.of(tokenizer),
            eval_dataset=held_out_rows(files, arguments, tokenizer),
            processing_class=tokenizer,
            control_tokens=control,
            eos_token_id=tokenizer.eos_token_id,
        )
        found = trainer.evaluate()
    return {
        name.removeprefix("eval_"): value for name, value in found.items() if not any(part in name for part in TIMES)
    }


def evaluate_backbone(files: Sequence[str], arguments: EvaluationArguments) -> None:
    """Measure a backbone on conversations and print the figures."""
    if arguments.output is not None:
        Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
    figures = measure_backbone(files, arguments, arguments.batch_size, arguments.fork_bias)
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:.4f}")
    Console().print(table)
    if arguments.output is not None:
        Path(arguments.output).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def main(argv: Sequence[str]) -> int:
    """Run `medusa-apar eval backbone` with these arguments."""
    files = Positional("FILE", "held-out conversations", many=True)
    run(evaluate_backbone, (EvaluationArguments,), "medusa-apar eval backbone", argv, positional=files)
    return 0
