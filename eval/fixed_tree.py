"""Mode `fixed-tree`: `medusa-apar` with medusa-llm's way of laying guesses, to show what the shared budget is worth."""

from __future__ import annotations

from medusa_apar.fixed_tree import cartesian_tree
from medusa_apar.modes import Mode

FIXED_TREE = "fixed-tree"
WIDTHS = (3, 2, 1, 1)
"""Guesses of each head under every node of the level above: 21 candidates behind every pending token."""


def engine_mode(name: str) -> Mode:
    """The mode of the engine that a name stands for."""
    return Mode.MEDUSA_APAR if name == FIXED_TREE else Mode(name)


def choices(name: str) -> list[tuple[int, ...]] | None:
    """`medusa_choices` of a mode; None where the shared budget chooses."""
    return cartesian_tree(WIDTHS) if name == FIXED_TREE else None
