"""The command line of a training: arguments from dataclasses, and errors in one line."""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import NoReturn

from torch import distributed
from transformers import HfArgumentParser

from medusa_apar.argument_types import LARGEST

LAST_WORK = 0.5
"""Seconds for the threads of a process group to let go of their last tensors, for which they need the interpreter."""


class InputError(ValueError):
    """Input that a training cannot use; the message names what it was, its value and the remedy."""


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (`{self.prog} --help` lists the arguments)\n")


@dataclass(frozen=True, slots=True)
class Positional:
    """What stands before all options.

    Attributes:
        name: as the help shows it.
        help: what it is.
        many: whether there may be several, which come as a list.
    """

    name: str
    help: str
    many: bool = False


def run(
    train: Callable[..., object],
    kinds: Sequence[type],
    prog: str,
    argv: Sequence[str],
    *,
    positional: Positional | None = None,
) -> None:
    """Call `train` with one dataclass of each kind, filled from the command line.

    Args:
        train: what to call.
        kinds: dataclasses.
        prog: the command.
        argv: its arguments.
        positional: what stands before all options and is handed on first; None: nothing does.

    Raises:
        SystemExit: with status 2, after one line on stderr, where the arguments or what they name are unusable.
    """
    parser = _Parser(tuple(kinds), prog=prog)  # type: ignore[arg-type]
    if positional is not None:
        nargs = "+" if positional.many else None
        parser.add_argument("positional", nargs=nargs, metavar=positional.name, help=positional.help)
    try:
        *arguments, unknown = parser.parse_args_into_dataclasses(
            list(argv), return_remaining_strings=True, look_for_args_file=False
        )
    except (ValueError, OverflowError) as error:
        parser.error(_one_line(error))
    if unknown:
        parser.error(f"unknown argument {' '.join(unknown)}")
    for given in arguments[: len(kinds)]:
        for name, value in vars(given).items():
            if isinstance(value, float) and not isfinite(value):
                parser.error(f"--{name} {value} is not finite; give a number")
            if isinstance(value, int) and abs(value) > LARGEST:
                parser.error(f"--{name} {value} is beyond {LARGEST}; give a smaller number")
    if positional is not None:  # in argparse's namespace of what belongs to no dataclass
        arguments = [arguments[-1].positional, *arguments[:-1]]
    try:
        train(*arguments)
    except InputError as error:
        parser.error(_one_line(error))
    finally:
        atexit.register(_leave_process_group)  # not now: another training of the same process goes on in it


def _leave_process_group() -> None:
    """End this process's group, whose threads may abort an interpreter that is torn down around them."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
        time.sleep(LAST_WORK)  # torch keeps the threads of a group that DDP or FSDP has used


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
