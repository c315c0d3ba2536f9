"""What a request hopes for from its guesses."""

from __future__ import annotations

import numpy as np
import pytest

from medusa_apar.drafting.draft_tree import Guesses
from medusa_apar.engine.state import Request
from medusa_apar.tree.paragraph_tree import ParagraphTree


def request() -> Request:
    return Request(row=0, context=[5], limit=9, tree=ParagraphTree([], None, None, 0), key=0)


def guesses(*levels: tuple[float, ...]) -> Guesses:
    """Guesses of these probabilities of their paths, of which none is looked at."""
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.array(levels))
    return Guesses(np.zeros(log_probs.shape, np.int64), np.zeros(log_probs.shape, np.int64), log_probs)


def test_nothing_is_hoped_for_before_the_first_guesses() -> None:
    assert request().hope is None


def test_hope_is_what_the_heads_promise_times_what_they_keep() -> None:
    asked = request()
    for _ in range(200):
        asked.note(guesses((0.5, 0.3), (0.25, 0.0)), carried=2, accepted=0)
    assert asked.hope is not None
    assert asked.hope.max() < 0.01
    for _ in range(200):
        asked.note(guesses((0.5, 0.3), (0.25, 0.0)), carried=2, accepted=1)
    np.testing.assert_allclose(asked.hope, [[0.5, 0.3], [0.25, 0.0]], rtol=1e-3)


def test_levels_that_are_not_guessed_now_go_with_the_last_that_is() -> None:
    asked = request()
    asked.note(guesses((0.4, 0.2), (0.2, 0.1), (0.1, 0.05)), carried=0, accepted=0)
    for _ in range(400):
        asked.note(guesses((0.8, 0.1)), carried=0, accepted=0)
    assert asked.hope is not None
    np.testing.assert_allclose(asked.hope, [[0.8, 0.1], [0.4, 0.2], [0.2, 0.1]], rtol=1e-3)


def test_levels_that_were_never_guessed_before_are_known_from_then_on() -> None:
    asked = request()
    asked.note(guesses((0.4, 0.2)), carried=0, accepted=0)
    asked.note(guesses((0.8, 0.1), (0.4, 0.1)), carried=0, accepted=0)
    assert asked.hope is not None
    np.testing.assert_allclose(asked.hope, [[0.8, 0.1], [0.4, 0.1]])


def test_a_single_path_says_nothing_of_the_guesses_beside_it() -> None:
    asked = request()
    asked.note(guesses((0.4, 0.2), (0.2, 0.1)), carried=0, accepted=0)
    for _ in range(400):
        asked.note(guesses((0.6, 0.0), (0.5, 0.0)), carried=0, accepted=0)
    assert asked.hope is not None
    np.testing.assert_allclose(asked.hope, [[0.6, 0.2], [0.5, 0.1]], rtol=1e-3)


@pytest.mark.parametrize("likely", [0.0, 1e-300])
def test_guesses_that_cannot_be_right_leave_numbers(likely: float) -> None:
    asked = request()
    asked.note(guesses((likely,), (likely,)), carried=0, accepted=0)
    asked.note(guesses((1.0,)), carried=1, accepted=1)
    assert asked.hope is not None
    assert np.isfinite(asked.hope).all()
