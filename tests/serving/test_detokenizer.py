"""Text as far as it is certain."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from medusa_apar.serving.detokenizer import IncrementalDetokenizer

WORDS = ["One ", "two", "\N{REPLACEMENT CHARACTER}", "! Thr", "ee STOP", " four"]


def reader(*stop: str) -> IncrementalDetokenizer:
    model: Any = SimpleNamespace(text=lambda ids: "".join(WORDS[token] for token in ids))
    return IncrementalDetokenizer(model, stop)


def parts(text: IncrementalDetokenizer, *, until: int = len(WORDS)) -> list[str]:
    return [text.update(list(range(count)), final=count == len(WORDS)) for count in range(1, until + 1)]


def test_only_what_is_new_is_handed_out() -> None:
    assert parts(reader()) == ["One ", "two", "", "\N{REPLACEMENT CHARACTER}! Thr", "ee STOP", " four"]


def test_an_incomplete_character_waits_for_its_bytes() -> None:
    text = reader()
    assert text.update([0, 1, 2], final=False) == "One two"
    assert text.update([0, 1, 2], final=True) == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(("stop", "expected"), [("Three", "One two\N{REPLACEMENT CHARACTER}! "), ("One", "")])
def test_a_stop_string_ends_the_text_before_it_also_across_tokens(stop: str, expected: str) -> None:
    text = reader(stop)
    parts(text)
    assert text.text == expected
    assert text.stopped


def test_what_may_become_a_stop_string_waits() -> None:
    text = reader("STOP it")
    assert parts(text, until=5)[-1] == "ee "
    assert not text.stopped
    assert text.update(list(range(6)), final=True) == "STOP four"


@pytest.mark.parametrize("lumps", [range(1, 7), [2, 6], [4, 6], [6]])
def test_text_and_tokens_do_not_depend_on_how_many_tokens_come_at_once(lumps: Iterable[int]) -> None:
    """Of two stop strings the one ends the text that is complete first."""
    text = reader("Three STOP", "ee S")
    for count in lumps:
        text.update(list(range(count)), final=count == 6)
        if text.stopped:
            break
    assert text.text == "One two\N{REPLACEMENT CHARACTER}! Thr"
    assert text.tokens == 5, "those behind the stop string do not count"
