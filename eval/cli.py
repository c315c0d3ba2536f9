"""`medusa-apar eval`: one subcommand per measurement."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from . import batch, speed

_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"batch": batch.main, "speed": speed.main}


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the arguments to the subcommand that they name."""
    parser = argparse.ArgumentParser(prog="medusa-apar eval", description=__doc__)
    parser.add_argument(
        "command",
        choices=sorted(_COMMANDS),
        help="speed: tokens/s and tokens per step of the modes; batch: tokens/s by batch size",
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the subcommand; `speed -h` lists them")
    arguments = parser.parse_args(argv)
    return _COMMANDS[arguments.command](arguments.arguments)
