"""The measure of looping."""

from __future__ import annotations

import pytest

from medusa_apar.train.own_text.repetition import LOOPING_BELOW, distinct_ngrams


@pytest.mark.parametrize(
    ("tokens", "n", "share"),
    [
        ([1, 2, 3, 4, 5], 4, 1.0),
        ([1, 1, 1, 1, 1, 1, 1], 4, 1 / 4),
        ([1, 2, 1, 2, 1], 2, 2 / 4),
        ([1, 2, 3], 4, 1.0),
        ([], 4, 1.0),
    ],
)
def test_counts_distinct_ngrams(tokens: list[int], n: int, share: float) -> None:
    assert distinct_ngrams(tokens, n) == share


def test_tells_a_loop_from_a_text() -> None:
    assert distinct_ngrams([1, 2, 3, 4, 5] * 10, 4) < LOOPING_BELOW < distinct_ngrams(list(range(50)), 4)
