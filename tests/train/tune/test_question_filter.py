"""Questions that can be answered, each once; everything else is refused with a reason."""

from __future__ import annotations

import pytest

from medusa_apar.train.own_text.question_filter import QuestionFilter

GOOD = (
    "How do herons catch fish?",
    "Write a short story about a wren that cannot sing.",
    "I moved to Ulm last week. What should I see there?",
    "¿Cómo se hace el pan en casa?",
)


@pytest.mark.parametrize("text", GOOD)
def test_a_question_is_taken(text: str) -> None:
    assert QuestionFilter().reason_against(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Herons?", "not of 3 to 150 words"),
        ("heron " * 200, "not of 3 to 150 words"),
        ("Write a letter to [name of the mayor] about herons.", "with a placeholder"),
        ("Explain to {{user}} how herons fish.", "with a placeholder"),
        ("Tell me which of these birds is the tallest:", "cut off"),
        ("Can you summarise the following article for me?", "about a text that is not there"),
        ("What is the mood of this passage?", "about a text that is not there"),
        ("Correct the sentence above, please.", "about a text that is not there"),
    ],
)
def test_what_cannot_be_answered_is_refused(text: str, reason: str) -> None:
    assert QuestionFilter().reason_against(text) == reason


def test_a_question_may_bring_its_text_along() -> None:
    text = "Summarise the following article for me. " + "A heron stood in the reeds and waited for a fish. " * 4
    assert QuestionFilter().reason_against(text) is None


def test_a_question_is_taken_once() -> None:
    known = QuestionFilter()
    assert known.reason_against("How do herons catch fish in winter?") is None
    assert known.reason_against("how do Herons catch fish in winter") == "a duplicate"
    assert known.reason_against("How do herons catch fish in the winter?") == "a duplicate"
    assert known.reason_against("How do wrens build nests in spring?") is None


def test_excluded_questions_are_refused() -> None:
    known = QuestionFilter(["Compose a travel blog post about a trip to Ulm."])
    assert known.reason_against("Compose a travel blog post about a trip to Ulm!") == "excluded"
    assert known.reason_against("Compose a poem about a trip to Ulm.") is None


def test_questions_of_benchmarks_are_refused() -> None:
    assert QuestionFilter().reason_against("How can I improve my time management skills?") == "of a benchmark"
