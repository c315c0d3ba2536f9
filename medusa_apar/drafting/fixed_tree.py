"""medusa-llm's way to choose nodes, for comparison: the same tree after every pending token.

Source: Medusa (Cai et al. 2024, arXiv 2401.10774), sections 2.1.2 and 2.3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import pairwise
from math import prod

from .budget import FixedBudget


class FixedTree(FixedBudget):
    """Carry the whole of a tree after every pending token.

    Args:
        choices: paths of ranks, as `medusa_choices`: `(0, 2)` is the third token of head 2 under the first of head 1.
        draftable: tokens that a head can draft; every rank is below.

    Raises:
        ValueError: for no path at all, one whose parent is missing, or one that these heads cannot draft.
    """

    def __init__(self, choices: Sequence[Sequence[int]], draftable: int) -> None:
        paths = sorted({tuple(path) for path in choices}, key=lambda path: (len(path), path))
        for path in paths:
            if len(path) > 1 and path[:-1] not in paths:
                raise ValueError(f"medusa_choices has {list(path)} without its parent {list(path[:-1])}; add it")
            if not all(0 <= rank < draftable for rank in path):
                raise ValueError(
                    f"medusa_choices has {list(path)}, but these heads draft tokens of ranks 0 to {draftable - 1}; "
                    "leave it out"
                )
        if not paths:
            raise ValueError(
                "medusa_choices is empty; list paths of ranks, or pass medusa=False to decode without drafting"
            )
        levels = [[path for path in paths if len(path) == length] for length in range(len(paths[-1]) + 1)]
        levels[0] = [()]
        super().__init__(
            shape=tuple(
                tuple((above.index(path[:-1]), path[-1]) for path in level) for above, level in pairwise(levels)
            )
        )


def tuned_tree(accuracy: Sequence[Sequence[float]], nodes: int) -> list[tuple[int, ...]]:
    """The paths of ranks that are likeliest to be accepted, if heads hit independently of each other.

    Args:
        accuracy: of each head how often the right token is among its best token, its two best ones, and so on.
        nodes: how many paths; fewer where the accuracies tell of no more tokens.

    Returns:
        `medusa_choices`, the likeliest first.
    """
    shares = [[top - below for top, below in zip(tops, (0.0, *tops), strict=False)] for tops in accuracy]
    waiting: list[tuple[float, tuple[int, ...]]] = []

    def consider(path: tuple[int, ...]) -> None:
        if len(path) <= len(shares) and path[-1] < len(shares[len(path) - 1]):
            heappush(waiting, (-prod(share[rank] for share, rank in zip(shares, path, strict=False)), path))

    consider((0,))
    chosen: list[tuple[int, ...]] = []
    while waiting and len(chosen) < nodes:
        _, path = heappop(waiting)
        chosen.append(path)
        consider((*path, 0))
        consider((*path[:-1], path[-1] + 1))
    return chosen
