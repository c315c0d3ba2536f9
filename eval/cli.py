"""`medusa-apar eval`: one subcommand per measurement."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib import import_module

from medusa_apar.argument_types import ArgumentParser

USER_ERROR = 2
INTERRUPTED = 130
COMMANDS = {
    "backbone": "..train.backbone.held_out_figures",
    "batch": ".batch.command",
    "heads": ".accuracy.drafts",
    "quality": ".quality.command",
    "replay": ".replay.command",
    "report": ".report.command",
    "serving": ".serving.command",
    "speed": ".speed.command",
}
"""And their modules; what one of them needs, the others may do without."""


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the arguments to the subcommand that they name; a user's error ends with one line and exit status 2."""
    parser = ArgumentParser(prog="medusa-apar eval", description=__doc__)
    parser.add_argument(
        "command",
        choices=tuple(COMMANDS),
        help="speed: tokens/s and tokens per step of the modes; batch: tokens/s by batch size; "
        "quality: how good the modes' answers are, with and without a judge; "
        "replay: recorded answers of real models drive the engine, a calibrated simulation; "
        "report: one page out of the folders of these; "
        "serving: threads as requests of vLLM under load; "
        "backbone: how well a model forks on held-out conversations; "
        "heads: what they draft on held-out questions, and what Medusa alone is worth",
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the subcommand; `speed -h` lists them")
    arguments = parser.parse_args(argv)
    run: Callable[[Sequence[str]], int] = import_module(COMMANDS[arguments.command], __package__).main
    try:
        return run(arguments.arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ValueError, OSError) as error:
        parser.exit(USER_ERROR, f"{parser.prog} {arguments.command}: error: {' '.join(str(error).split())}\n")
