"""How often simulated heads are right."""

from __future__ import annotations

import numpy as np
import pytest

from medusa_apar.eval.replay.hits import PUBLISHED, RANKS, HitModel, ranked


@pytest.mark.parametrize(("top_1", "top_5"), PUBLISHED)
def test_ranks_between_the_published_ones_fall(top_1: float, top_5: float) -> None:
    tops = ranked(top_1, top_5)
    assert tops[0] == pytest.approx(top_1)
    assert tops[4] == pytest.approx(top_5)
    assert len(tops) == RANKS
    assert (np.diff(tops, n=2) < 0).all()
    assert tops[-1] <= 1


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_heads_are_as_often_right_as_published_whatever_the_correlation(correlation: float) -> None:
    ranks = HitModel.published(correlation).draw(40_000, seed=(0,))
    for head, (top_1, top_5) in enumerate(PUBLISHED):
        assert (ranks[:, head] == 0).mean() == pytest.approx(top_1, abs=0.02)
        assert (ranks[:, head] < 5).mean() == pytest.approx(top_5, abs=0.02)


def test_correlated_heads_are_right_together() -> None:
    both = {
        correlation: (HitModel.published(correlation).draw(40_000, seed=(0,))[:, :2] == 0).all(axis=1).mean()
        for correlation in (0.0, 0.5)
    }
    assert both[0.0] == pytest.approx(0.56 * 0.32, abs=0.01)
    assert both[0.5] > both[0.0] + 0.04


def test_the_same_seed_hits_the_same() -> None:
    hits = HitModel.published(0.3)
    assert (hits.draw(50, seed=(1, 2)) == hits.draw(50, seed=(1, 2))).all()
    assert (hits.draw(50, seed=(1, 2)) != hits.draw(50, seed=(1, 3))).any()
