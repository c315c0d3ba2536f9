"""A median with its quartiles and its confidence interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from scipy.stats import bootstrap

LEAST_FOR_INTERVAL = 6
"""The least and the greatest of fewer values hold their median with less than 95 %."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and its quartiles over so many values.

    Attributes:
        interval: 95 % confidence interval of the median, by bootstrap; None for fewer than three values.
    """

    median: float
    lower_quartile: float
    upper_quartile: float
    count: int
    interval: tuple[float, float] | None = field(default=None, compare=False)

    @classmethod
    def of(cls, values: Sequence[float]) -> Self | None:
        """The spread of some values; None for none."""
        if not values:
            return None
        lower, median, upper = np.percentile(values, (25, 50, 75)).tolist()
        return cls(median, lower, upper, len(values), _interval_of_median(values))


def _interval_of_median(values: Sequence[float]) -> tuple[float, float] | None:
    if len(values) < LEAST_FOR_INTERVAL:
        return None
    found = bootstrap((np.asarray(values),), np.median, n_resamples=1999, method="percentile", rng=0)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
