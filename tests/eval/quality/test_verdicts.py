"""What a judge's text says."""

from __future__ import annotations

import pytest

from medusa_apar.eval.judge.verdicts import Outcome, Verdict, outcome_of, rating_of, verdict_of


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Good. Rating: [[7]]", 7),
        ("Rating: [[7.5]] of [[10]]", 7.5),
        ("Rating: [8]", 8),
        ("As in [1], fine. Rating: [[6]]", 6),
        ("[[10]]", 10),
        ("Rating: 7", None),
        ("Rating: [[seven]]", None),
        ("Rating: [[11]]", None),
        ("Rating: [[0]]", None),
        ("", None),
    ],
)
def test_reads_ratings_as_fastchat_does_from_1_to_10(text: str, rating: float | None) -> None:
    assert rating_of(text) == rating


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("It is [[A]]", Verdict.A),
        ("[[B]]", Verdict.B),
        ("[[C]]", Verdict.TIE),
        ("not [[B]] but [[A]]", Verdict.A),
        ("[A]", None),
        ("", None),
    ],
)
def test_reads_verdicts_as_fastchat_does(text: str, verdict: Verdict | None) -> None:
    assert verdict_of(text) == verdict


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        (Verdict.A, Verdict.B, Outcome.WIN),
        (Verdict.B, Verdict.A, Outcome.LOSS),
        (Verdict.A, Verdict.A, Outcome.TIE),
        (Verdict.B, Verdict.B, Outcome.TIE),
        (Verdict.A, Verdict.TIE, Outcome.TIE),
        (Verdict.TIE, Verdict.TIE, Outcome.TIE),
        (None, Verdict.B, None),
        (Verdict.A, None, None),
    ],
)
def test_a_win_needs_both_orders(first: Verdict | None, second: Verdict | None, outcome: Outcome | None) -> None:
    assert outcome_of(first, second) is outcome
