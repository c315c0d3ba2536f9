"""Which draft tokens of the heads are right: published accuracies, and how much the heads of a place err together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

RANKS = 10
"""Draft tokens of a head that a decoder looks at."""

PUBLISHED = ((0.56, 0.78), (0.32, 0.56), (0.20, 0.42), (0.15, 0.34), (0.12, 0.30))
"""Top-1 and top-5 accuracy of the five Medusa heads of Vicuna-7B, as medusa-llm's authors published them."""


def ranked(top_1: float, top_5: float) -> list[float]:
    """How often the right token is among a head's best 1, 2, ... `RANKS` draft tokens.

    Each rank hits by the same factor less often than the one before, so that both given accuracies come out.
    """
    factor = brentq(lambda x: top_1 * sum(x**rank for rank in range(5)) - top_5, 0.0, 1.0)
    tops: list[float] = np.cumsum([top_1 * factor**rank for rank in range(RANKS)]).clip(max=1.0).tolist()
    return tops


@dataclass(frozen=True, slots=True)
class HitModel:
    """How likely heads are right.

    Attributes:
        accuracy: of each head the top-1 to top-`RANKS` accuracy.
        correlation: of the heads' errors after one token, from 0 (independent) to below 1: of the normal variables of
            a Gaussian copula with one common factor.
    """

    accuracy: tuple[tuple[float, ...], ...]
    correlation: float = 0.0

    @staticmethod
    def published(correlation: float = 0.0) -> HitModel:
        """The published accuracies."""
        return HitModel(tuple(tuple(ranked(*each)) for each in PUBLISHED), correlation)

    def draw(self, places: int, seed: Sequence[int]) -> NDArray[np.int64]:
        """At which rank each head has the right token after each place: `[places, heads]`; `RANKS` where it misses."""
        random = np.random.default_rng(seed)
        common, own = random.standard_normal((places, 1)), random.standard_normal((places, len(self.accuracy)))
        shares = norm.cdf(np.sqrt(self.correlation) * common + np.sqrt(1 - self.correlation) * own)
        by_head = [np.searchsorted(tops, shares[:, head]) for head, tops in enumerate(self.accuracy)]
        return np.stack(by_head, axis=1)
