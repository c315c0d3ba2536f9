"""Which rules make forks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Rule(StrEnum):
    """A kind of structure whose parts can be written at once."""

    HEADINGS = "headings"
    ORDERED = "ordered"
    BULLETS = "bullets"
    PARAGRAPHS = "paragraphs"


@dataclass(frozen=True, slots=True)
class Rules:
    """How deep a response is split, and by what.

    Attributes:
        rules: that are applied.
        max_depth: of a thread, the main one having depth 1, as `generate` counts; `max_depth=2` is a list of details.
        min_items: parts with details that a structure has to have.
    """

    rules: frozenset[Rule] = frozenset(Rule)
    max_depth: int = 3
    min_items: int = 2


RULES = Rules()
PAPER = Rules(frozenset({Rule.ORDERED, Rule.PARAGRAPHS}), max_depth=2, min_items=3)
"""Those of APAR (Liu et al. 2024, arXiv 2401.06761), section 3.2 and appendix."""
