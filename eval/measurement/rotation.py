"""The order in which systems that are compared take turns."""

from __future__ import annotations

from collections.abc import Sequence


def rotated(systems: Sequence[str], turn: int) -> list[str]:
    """The systems from place `turn` on, then the others: no system is always measured behind the same one."""
    first = turn % len(systems)
    return [*systems[first:], *systems[:first]]
