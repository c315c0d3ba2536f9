"""How likely draft tokens are accepted, by what became of former ones."""

from __future__ import annotations

import numpy as np
import pytest

from medusa_apar.drafting.acceptance import RunningAcceptance
from medusa_apar.drafting.draft_tree import DraftTree


def tree(*levels: tuple[float, ...]) -> DraftTree:
    """A draft tree with these probabilities of its paths; its tokens are not looked at."""
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.array(levels))
    return DraftTree(np.zeros(log_probs.shape, np.int64), np.zeros(log_probs.shape, np.int64), log_probs)


def test_nothing_is_expected_before_the_first_draft_tree() -> None:
    assert RunningAcceptance().expected is None


def test_what_is_expected_is_what_the_heads_predict_times_what_they_achieve() -> None:
    running = RunningAcceptance()
    for _ in range(200):
        running.update(tree((0.5, 0.3), (0.25, 0.0)), carried=2, accepted=0)
    assert running.expected is not None
    assert running.expected.max() < 0.01
    for _ in range(200):
        running.update(tree((0.5, 0.3), (0.25, 0.0)), carried=2, accepted=1)
    np.testing.assert_allclose(running.expected, [[0.5, 0.3], [0.25, 0.0]], rtol=1e-3)


def test_levels_that_are_not_drafted_now_go_with_the_last_that_is() -> None:
    running = RunningAcceptance()
    running.update(tree((0.4, 0.2), (0.2, 0.1), (0.1, 0.05)), carried=0, accepted=0)
    for _ in range(400):
        running.update(tree((0.8, 0.1)), carried=0, accepted=0)
    assert running.expected is not None
    np.testing.assert_allclose(running.expected, [[0.8, 0.1], [0.4, 0.2], [0.2, 0.1]], rtol=1e-3)


def test_levels_that_were_never_drafted_before_are_known_from_then_on() -> None:
    running = RunningAcceptance()
    running.update(tree((0.4, 0.2)), carried=0, accepted=0)
    running.update(tree((0.8, 0.1), (0.4, 0.1)), carried=0, accepted=0)
    assert running.expected is not None
    np.testing.assert_allclose(running.expected, [[0.8, 0.1], [0.4, 0.1]])


def test_a_single_path_says_nothing_of_the_tokens_beside_it() -> None:
    running = RunningAcceptance()
    running.update(tree((0.4, 0.2), (0.2, 0.1)), carried=0, accepted=0)
    for _ in range(400):
        running.update(tree((0.6, 0.0), (0.5, 0.0)), carried=0, accepted=0)
    assert running.expected is not None
    np.testing.assert_allclose(running.expected, [[0.6, 0.2], [0.5, 0.1]], rtol=1e-3)


@pytest.mark.parametrize("likely", [0.0, 1e-300])
def test_draft_tokens_that_cannot_be_right_leave_numbers(likely: float) -> None:
    running = RunningAcceptance()
    running.update(tree((likely,), (likely,)), carried=0, accepted=0)
    running.update(tree((1.0,)), carried=1, accepted=1)
    assert running.expected is not None
    assert np.isfinite(running.expected).all()
