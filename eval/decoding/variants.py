"""Ways of this engine that are measured beside its modes."""

from __future__ import annotations

from dataclasses import dataclass

from medusa_apar.drafting.fixed_tree import cartesian_tree
from medusa_apar.modes import Mode

FIXED_TREE = "fixed-tree"
"""Mode `medusa-apar` with medusa-llm's way of laying draft tokens, to show what the shared budget is worth."""
WIDTHS = (3, 2, 1, 1)
"""Draft tokens of each head under every node of the level above: 21 candidates after every pending token."""


@dataclass(frozen=True, slots=True)
class Variant:
    """What a name stands for.

    Attributes:
        mode: of the engine.
        medusa_choices: of `generate`; None where the shared budget chooses.
    """

    mode: Mode
    medusa_choices: list[tuple[int, ...]] | None = None


def variant_of(name: str) -> Variant:
    """The variant, or the mode as it is, that a name stands for."""
    return Variant(Mode.MEDUSA_APAR, cartesian_tree(WIDTHS)) if name == FIXED_TREE else Variant(Mode(name))
