"""`medusa-apar heads`: look into checkpoints of draft heads, and convert them."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, PreTrainedModel

from medusa_apar.argument_types import ArgumentParser

from .checkpoints.eagle3_files import FIRST_LAYER, save_eagle3
from .checkpoints.formats import CheckpointFormat, detect_format, holds_heads_alone
from .checkpoints.loading import load_heads
from .checkpoints.medusa_llm import save_medusa_llm
from .checkpoints.vllm import save_vllm
from .draft_heads import DraftHeads
from .eagle3 import Eagle3Heads
from .medusa import MedusaHeads
from .sequential import SequentialHeads

NAMES = {MedusaHeads: "Medusa", SequentialHeads: "sequential", Eagle3Heads: "EAGLE-3"}


def main(argv: Sequence[str]) -> None:
    """Run `medusa-apar heads`.

    Args:
        argv: the arguments after `heads`.

    Raises:
        ValueError: the checkpoint is broken, or cannot be converted.
        OSError: a file is missing, unreadable, or cannot be written.
        SystemExit: the arguments are wrong, or help was asked for.
    """
    arguments = _parser().parse_args(argv)
    if arguments.command == "inspect":
        inspect(arguments.path)
    else:
        export(arguments.path, arguments.output_dir, CheckpointFormat(arguments.format), arguments.backbone)


def inspect(source: str) -> None:
    """Print what a checkpoint holds: its sizes, and per head its calibration and held-out accuracy."""
    checkpoint_format = detect_format(source)
    heads = load_heads(source)
    console = Console()
    console.print(_sizes(heads, checkpoint_format))
    console.print(_quality(heads))


def export(source: str, output: str, checkpoint_format: CheckpointFormat, backbone: str | None = None) -> None:
    """Write a checkpoint in another format.

    Args:
        source: folder or hub id of the heads.
        output: folder to write.
        checkpoint_format: any but our own.
        backbone: folder or hub id of the heads' backbone; by default the folder around `source`, if that is a model;
            only medusa-llm's format and heads that share its projection need one.

    Raises:
        ValueError: the backbone is unknown or does not fit, or the format cannot express the heads.
        OSError: a file is missing, unreadable, or cannot be written.
    """
    heads = load_heads(source)
    shared = isinstance(heads, MedusaHeads) and heads.config.shared_projection
    backbone = backbone or _surrounding_model(source)
    if backbone is None and (shared or checkpoint_format is CheckpointFormat.MEDUSA_LLM):
        raise ValueError(
            f"{source}: --format {checkpoint_format} needs the backbone of these heads, and there is none around them; "
            "give it with --backbone DIR"
        )
    local = backbone is not None and Path(backbone).is_dir()
    model: PreTrainedModel | None = None
    if backbone is not None and (local or shared):
        if local and holds_heads_alone(Path(backbone)):
            raise ValueError(f"{backbone} holds draft heads and no model; name a backbone with --backbone")
        model = AutoModelForCausalLM.from_pretrained(backbone, dtype="auto")
    if checkpoint_format in FIRST_LAYER:
        save_eagle3(heads, output, checkpoint_format, backbone)
    elif checkpoint_format is CheckpointFormat.VLLM:
        save_vllm(heads, output, model)
    else:
        assert backbone is not None
        save_medusa_llm(heads, output, str(Path(backbone).resolve()) if local else backbone, model)
    training = Path(source) / "training.json"
    if training.is_file():  # how the heads were made
        shutil.copy(training, output)
    Console().print(f"wrote {heads.config.num_heads} heads to {output}", soft_wrap=True, highlight=False)


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="medusa-apar heads", description="Look into draft heads, convert and verify them.")
    commands = parser.add_subparsers(dest="command", required=True)

    inspecting = commands.add_parser("inspect", help="print what a checkpoint holds")
    inspecting.add_argument("path", metavar="PATH", help="folder or hub id of the heads")

    exporting = commands.add_parser("export", help="write a checkpoint in another format")
    exporting.add_argument("path", metavar="PATH", help="folder or hub id of the heads")
    exporting.add_argument(
        "--format",
        required=True,
        choices=[each.value for each in CheckpointFormat if each != CheckpointFormat.MEDUSA_APAR],
    )
    exporting.add_argument("--output-dir", required=True, metavar="DIR", help="folder to write")
    exporting.add_argument(
        "--backbone", metavar="DIR", help="folder or hub id of the backbone (default: the folder around PATH)"
    )
    commands.add_parser("verify", help="decode with a checkpoint, and compare with its training", add_help=False)
    return parser


def _surrounding_model(source: str) -> str | None:
    parent = Path(source).resolve().parent
    return str(parent) if Path(source).is_dir() and (parent / "config.json").is_file() else None


def _sizes(heads: DraftHeads, checkpoint_format: CheckpointFormat) -> Table:
    config = heads.config
    parameters = list(heads.parameters())
    megabytes = sum(parameter.numel() * parameter.element_size() for parameter in parameters) / 1e6
    table = Table(show_header=False)
    table.add_row("format", checkpoint_format.value)
    table.add_row("kind", NAMES[type(heads)])
    for name, value in config.shape.items():
        table.add_row(name, str(value))
    table.add_row("parameters", f"{sum(parameter.numel() for parameter in parameters):,}")
    table.add_row("size", f"{megabytes:.2f} MB in {str(heads.dtype).removeprefix('torch.')}")
    return table


def _quality(heads: DraftHeads) -> Table:
    config = heads.config
    ranks = max((len(accuracy) for accuracy in config.accuracy), default=0)
    table = Table("head", "calibration", *(f"top-{rank}" for rank in range(1, ranks + 1)), "accepted")
    if not ranks:
        table.caption = "accuracy not recorded"
    elif config.tokens_per_step is not None:
        table.caption = f"{config.tokens_per_step:.2f} tokens per step with the best draft tokens alone"
    for head, temperature in enumerate(config.calibration_temperature):
        accuracy = config.accuracy[head] if head < len(config.accuracy) else []
        cells = [f"{value:.3f}" for value in accuracy] or [""] * ranks
        accepted = [f"{config.acceptance[head]:.3f}"] if head < len(config.acceptance) else []
        table.add_row(str(head + 1), f"{temperature:.3f}", *cells, *accepted)
    return table
