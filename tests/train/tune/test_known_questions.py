"""Questions that ask the same in nearly the same words are found, those of benchmarks among them."""

from __future__ import annotations

import pytest

from medusa_apar.eval.measurement.question_sets import load_questions
from medusa_apar.train.own_text.known_questions import KnownQuestions, benchmarks, shingles_of

ASKED = "How do herons catch fish in deep and muddy water?"


def test_a_question_is_found_however_it_is_written() -> None:
    known = KnownQuestions.of([shingles_of(ASKED)])
    assert known.holds(shingles_of(ASKED.upper().replace("?", " !")))
    assert known.holds(shingles_of("Tell me: " + ASKED))
    assert known.holds(shingles_of("How do herons catch fish in deep water?"))


def test_another_question_is_not() -> None:
    known = KnownQuestions.of([shingles_of(ASKED)])
    assert not known.holds(shingles_of("How do herons build their nests in tall trees?"))
    assert not KnownQuestions().holds(shingles_of(ASKED))


@pytest.mark.parametrize("name", ["everyday", "lists"])
def test_the_bundled_questions_are_known(name: str) -> None:
    turns = [turn for question in load_questions(name) for turn in question.turns]
    assert all(benchmarks().holds(shingles_of(turn)) for turn in turns)


def test_a_well_known_benchmark_question_is_known() -> None:
    assert benchmarks().holds(shingles_of("How can I improve my time management skills?"))  # Vicuna Bench
    assert not benchmarks().holds(shingles_of("How can I improve the soil of my garden?"))
