"""Text as far as it is certain."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from medusa_apar.serving.reading import ReadingText

WORDS = ["One ", "two", "\N{REPLACEMENT CHARACTER}", "! Thr", "ee STOP", " four"]


def reader(*stop: str) -> ReadingText:
    model: Any = SimpleNamespace(text=lambda ids: "".join(WORDS[token] for token in ids))
    return ReadingText(model, stop)


def parts(text: ReadingText, *, until: int = len(WORDS)) -> list[str]:
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
