"""Line ends, blanks and invisible characters of all scripts change no tree, and come back as they were."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medusa_apar.train.structure import extract, flatten
from medusa_apar.train.structure.normalization import NormalizedText

ITEMS = ("Heron: it stands.", "Wren: it nests.", "Crow: it flies.")
LINE_ENDS = {
    "CR": "\r",
    "CR LF": "\r\n",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "next line": "\x85",
}
BLANKS = {"no-break": "\u00a0", "narrow no-break": "\u202f", "em": "\u2003", "thin": "\u2009", "ideographic": "\u3000"}
INVISIBLE = {
    "zero-width space": "\u200b", "byte-order mark": "\ufeff", "word joiner": "\u2060", "soft hyphen": "\u00ad",
    "left-to-right mark": "\u200e", "right-to-left mark": "\u200f", "isolate": "\u2066", "joiner": "\u200d",
}  # fmt: skip


def pieces(text: str) -> list[str]:
    tree = extract(text)
    assert tree is not None
    assert flatten(tree) == text
    return [node.text for node in tree.reading_order()]


@pytest.mark.parametrize("end", LINE_ENDS.values(), ids=LINE_ENDS.keys())
def test_line_ends(end: str) -> None:
    text = end.join(["Birds:", "", *(f"{n}. {item}" for n, item in enumerate(ITEMS, start=1)), "", "Bye. Now."])
    assert pieces(text) == [
        f"Birds:{end}{end}1. Heron:", " it stands.", f"{end}2. Wren:", " it nests.", f"{end}3. Crow:", " it flies.",
        f"{end}{end}Bye. Now.",
    ]  # fmt: skip


@pytest.mark.parametrize("blank", BLANKS.values(), ids=BLANKS.keys())
@pytest.mark.parametrize("marker", ["{}.", "-"])
def test_blanks_after_and_before_a_marker(blank: str, marker: str) -> None:
    lines = [f"{blank}{marker.format(n)}{blank}{item}" for n, item in enumerate(ITEMS, start=1)]
    assert pieces("\n".join(lines))[0] == lines[0].removesuffix(" it stands.")


@pytest.mark.parametrize("mark", INVISIBLE.values(), ids=INVISIBLE.keys())
@pytest.mark.parametrize("items", [{1, 2, 3}, {1}, {2}], ids=["all", "first", "second"])
def test_invisible_marks_before_a_marker(mark: str, items: set[int]) -> None:
    text = "\n".join(f"{mark * 3 if n in items else ''}{n}. {item}" for n, item in enumerate(ITEMS, start=1))
    assert len(pieces(text)) == 5


def test_invisible_marks_after_a_marker_and_in_a_colon() -> None:
    text = "\n".join(f"{n}.\u200b {item}" for n, item in enumerate(ITEMS, start=1)).replace(":", ":\u200b")
    assert pieces(text)[:2] == ["1.\u200b Heron:", "\u200b it stands."]


@given(st.text(alphabet="ab \n\r\u2028\u00a0\u200b\ufeff\ud800\u200d", max_size=40), st.data())
def test_adjacent_slices_make_the_original(text: str, data: st.DataObject) -> None:
    normalized = NormalizedText.of(text)
    length = len(normalized.text)
    cuts = sorted(data.draw(st.sets(st.integers(1, length - 1), max_size=4))) if length > 1 else []
    bounds = [0, *cuts, length]
    parts = [normalized.original_slice(start, end) for start, end in pairwise(bounds)]
    assert "".join(parts) == text


@given(st.text(max_size=40))
def test_a_normalized_text_has_one_kind_of_line_end(text: str) -> None:
    lines = NormalizedText.of(text).text.split("\n")
    assert all(line.splitlines() in ([], [line]) for line in lines)
