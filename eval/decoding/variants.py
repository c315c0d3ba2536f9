"""Ways of this engine that are measured beside its modes: another choice of nodes, and forks that go wrong."""

from __future__ import annotations

from dataclasses import dataclass

from medusa_apar.drafting.fixed_tree import cartesian_tree
from medusa_apar.modes import Mode

from .fork_errors import ForkError

FIXED_TREE = "fixed-tree"
"""Mode `medusa-apar` with medusa-llm's way of laying draft tokens, to show what the shared budget is worth."""
WIDTHS = (3, 2, 1, 1)
"""Draft tokens of each head under every node of the level above: 21 candidates after every pending token."""
WRONG_FORKS = {f"{error}-forks": error for error in ForkError}
"""Mode `medusa-apar` of a backbone that forks wrongly now and then, to show what that does to answers."""


@dataclass(frozen=True, slots=True)
class Variant:
    """What a name stands for.

    Attributes:
        mode: of the engine.
        medusa_choices: of `generate`; None where the shared budget chooses.
        fork_error: how the backbone forks wrongly; None where it forks as it will.
    """

    mode: Mode
    medusa_choices: list[tuple[int, ...]] | None = None
    fork_error: ForkError | None = None


def variant_of(name: str) -> Variant:
    """The variant, or the mode as it is, that a name stands for."""
    if name == FIXED_TREE:
        return Variant(Mode.MEDUSA_APAR, medusa_choices=cartesian_tree(WIDTHS))
    if name in WRONG_FORKS:
        return Variant(Mode.MEDUSA_APAR, fork_error=WRONG_FORKS[name])
    return Variant(Mode(name))
