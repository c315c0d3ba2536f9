"""The command line: a parser that takes `--output_dir` for `--output-dir`, numbers, and lists of names."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from math import isfinite
from typing import Any

LARGEST = 2**31 - 1
"""Larger whole numbers are typing errors: no count of tokens, threads or nodes comes near."""


class ArgumentParser(argparse.ArgumentParser):
    """Takes names with underscores as well as with hyphens, as transformers' parser does."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        given = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._hyphenated(each) for each in given], namespace)

    def _hyphenated(self, argument: str) -> str:
        name, equals, value = argument.partition("=")
        hyphenated = name.replace("_", "-")
        return f"{hyphenated}{equals}{value}" if hyphenated in self._option_string_actions else argument


def whole_number(text: str, least: int, most: int = LARGEST) -> int:
    """A whole number of a range."""
    value = int(text)
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{value} is {f'less than {least}' if value < least else f'above {most}'}")
    return value


def positive(text: str) -> int:
    """A whole number from 1."""
    return whole_number(text, 1)


def positives(text: str) -> list[int]:
    """Whole numbers from 1, separated by commas, each once and in rising order."""
    return sorted({positive(each) for each in text.split(",")})


def not_negative(text: str) -> int:
    """A whole number from 0."""
    return whole_number(text, 0)


def seed(text: str) -> int:
    """A whole number of 64 bits, of either sign."""
    return whole_number(text, -(2**63), 2**63 - 1)


def port(text: str) -> int:
    """The number of a TCP port; 0 is any free one."""
    return whole_number(text, 0, 65535)


def finite(text: str) -> float:
    """A finite number from 0."""
    value = float(text)
    if not (isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0")
    return value


def seconds(text: str) -> float:
    """A finite number above 0."""
    value = finite(text)
    if not value:
        raise argparse.ArgumentTypeError("0 is too short; give more seconds")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = finite(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text} is above 1")
    return value


def names_of(what: str, choices: Collection[str]) -> Callable[[str], list[str]]:
    """An argparse type for names separated by commas.

    Args:
        what: they name, for errors.
        choices: the known names.
    """

    def names(text: str) -> list[str]:
        given = list(dict.fromkeys(name.strip() for name in text.split(",")))
        for name in given:
            if name not in choices:
                raise argparse.ArgumentTypeError(f"{what}={name!r} is unknown; choose one of {', '.join(choices)}")
        return given

    return names
