"""Whether an answer loops."""

from __future__ import annotations

from collections.abc import Sequence

LOOPING_BELOW = 0.6
"""An answer with fewer distinct 4-grams than this share counts as a loop."""


def distinct_ngrams(tokens: Sequence[int], n: int) -> float:
    """Distinct n-grams / all n-grams; 1.0 for a text that is too short to have any."""
    total = len(tokens) - n + 1
    if total < 1:
        return 1.0
    return len({tuple(tokens[start : start + n]) for start in range(total)}) / total
