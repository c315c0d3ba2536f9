"""What grows: points along four axes through one base point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum


class Axis(StrEnum):
    """What grows while everything else stays as at the base point; names of `Point`'s fields."""

    THREADS = "threads"
    ROWS = "rows"
    TOKENS = "tokens"
    BACKBONE = "backbone"


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One workload.

    Attributes:
        backbone: name of its shape.
        threads: paragraphs of equal length that the answer falls into, each written by a thread.
        rows: of the batch.
        tokens: of each row's answer.
    """

    backbone: str
    threads: int
    rows: int
    tokens: int


Sweeps = Mapping[Axis, Sequence[int | str]]
"""The values that each axis takes, in rising order."""


def points_along(axis: Axis, base: Point, sweeps: Sweeps) -> list[Point]:
    """The base point with each value of an axis."""
    return [Point(**asdict(base) | {axis.value: value}) for value in sweeps[axis]]


def all_points(base: Point, sweeps: Sweeps) -> list[Point]:
    """The points of all axes, each once, those of a backbone together."""
    return sorted({point for axis in sweeps for point in points_along(axis, base, sweeps)})
