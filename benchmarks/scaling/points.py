"""What grows: points along four axes through one base point, and the answer that every row of a point writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from medusa_apar.eval.replay.script import Script, script_of_tree
from medusa_apar.tree.paragraph_tree import ParagraphNode

PROMPT_TOKENS = 64
LEAD_TOKENS = 6
"""Of the line that announces a paragraph, in the main thread."""
LEAST_PARAGRAPH = 2


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

    def __str__(self) -> str:
        return f"{self.threads} threads, {self.rows} rows, {self.tokens} tokens, {self.backbone}"


Sweeps = Mapping[Axis, Sequence[int | str]]
"""The values that each axis takes, in rising order."""


def points_along(axis: Axis, base: Point, sweeps: Sweeps) -> list[Point]:
    """The base point with each value of an axis."""
    return [Point(**asdict(base) | {axis.value: value}) for value in sweeps[axis]]


def all_points(base: Point, sweeps: Sweeps) -> list[Point]:
    """The points of all axes, each once, those of a backbone together."""
    return sorted({point for axis in sweeps for point in points_along(axis, base, sweeps)})


def script_of_point(point: Point, *, forks: bool) -> Script:
    """The script of each row of a point: paragraphs of equal length after short leads, in threads or as one.

    Raises:
        ValueError: an answer that is too short for its threads.
    """
    paragraph = (point.tokens - 1 - LEAD_TOKENS * (point.threads - 1)) // point.threads
    if paragraph < LEAST_PARAGRAPH:
        raise ValueError(
            f"an answer of tokens={point.tokens} is too short for threads={point.threads}; "
            f"take at least {(LEAST_PARAGRAPH + LEAD_TOKENS) * point.threads} tokens, or fewer threads"
        )
    tree = ParagraphNode("x" * paragraph)
    for _ in range(point.threads - 1 if forks else 0):
        tree = ParagraphNode("x" * LEAD_TOKENS, first_child=ParagraphNode("x" * paragraph), next_sibling=tree)
    return script_of_tree(tree, PROMPT_TOKENS, point.tokens)
