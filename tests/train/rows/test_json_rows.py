"""Rows of JSON text: layout and chunks do not matter, and what is not JSON costs one row."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medusa_apar.train.rows.bad_rows import BadRowError
from medusa_apar.train.rows.json_rows import UNDECODED, json_rows

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ['{"prompt": "x"}', '},{"', "[", "]}", "\\", "\u2028", "a\nb", '"']
)
TURNS = st.lists(st.fixed_dictionaries({"role": TEXTS, "content": TEXTS}), max_size=3)
QUESTIONS = st.builds(lambda prompt, response: {"prompt": prompt, "response": response}, TEXTS, TEXTS)
DIALOGUES = st.builds(
    lambda turns, score: {"messages": turns, "score": score}, TURNS, st.floats(allow_nan=False, allow_infinity=False)
)
ROWS = QUESTIONS | DIALOGUES | st.dictionaries(TEXTS, st.none() | st.integers() | TEXTS | TURNS, max_size=4)
DAMAGES = st.sampled_from(["", '"', "{", "}", "]", "[", ",", "\\", "x", ":", "\n", "\t"])
INDENTS = st.none() | st.integers(0, 4)


def lines(rows: list[Any], indent: int | None) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


def array(rows: list[Any], indent: int | None) -> str:
    return json.dumps(rows, indent=indent)


def objects(rows: list[Any], indent: int | None) -> str:
    return "\n".join(json.dumps(row, indent=indent, ensure_ascii=False) for row in rows)


def array_of_lines(rows: list[Any], indent: int | None) -> str:
    return "[" + ",\n".join(map(json.dumps, rows)) + "]\n"


LAYOUTS = [lines, array, objects, array_of_lines]


def chunked(text: str, size: int) -> Iterator[str]:
    return (text[at : at + size] for at in range(0, len(text), size))


def read(text: str, size: int = 1000) -> tuple[list[Any], dict[str, str]]:
    """The good rows, and the reasons by place of the others."""
    rows = list(json_rows(chunked(text, size), "f"))
    bad = {place: str(row) for row, place in rows if isinstance(row, BadRowError)}
    return [row for row, _ in rows if not isinstance(row, BadRowError)], bad


@given(
    rows=st.lists(ROWS, max_size=5), layout=st.sampled_from(LAYOUTS), indent=INDENTS,
    size=st.integers(1, 40), before=st.sampled_from(["", "\n", "\ufeff", "  "]),
)  # fmt: skip
@settings(deadline=None)
def test_rows_read_the_same_in_every_layout_and_in_chunks_of_any_length(
    rows: list[Any], layout: Callable[..., str], indent: int | None, size: int, before: str
) -> None:
    assert read(before + layout(rows, indent), size) == (rows, {})


@given(rows=st.lists(ROWS, min_size=1, max_size=5), layout=st.sampled_from(LAYOUTS), indent=INDENTS)
@settings(deadline=None)
def test_places_are_lines_and_columns(rows: list[Any], layout: Callable[..., str], indent: int | None) -> None:
    text = layout(rows, indent)
    for row, place in json_rows(chunked(text, 7), "f"):
        _, line, *column = place.split(":")
        at = text.split("\n")[int(line) - 1]
        start = int(column[0]) - 1 if column else len(at) - len(at.lstrip())
        rest = "\n".join([at[start:], *text.split("\n")[int(line) :]])
        assert json.JSONDecoder().raw_decode(rest)[0] == row


def test_a_place_has_a_column_where_a_row_begins_inside_a_line() -> None:
    rows = list(json_rows(iter(['[{"a": 1}, {"b": 2},\n {"c": 3}]\n{"d": 4} {"e": 5}']), "f.json"))
    assert [place for _, place in rows] == ["f.json:1:2", "f.json:1:12", "f.json:2", "f.json:3", "f.json:3:10"]


QUESTION = {"prompt": "MARK", "response": "b"}
DIALOGUE = {"messages": [{"role": "user", "content": "MARK"}, {"role": "assistant", "content": "b"}]}
DAMAGE = [
    ('"MARK"', '"a\tb"', "a raw control character in a string"),
    ('"MARK"', '"a\nb"', "a raw control character in a string"),
    ('"MARK"', '"a\x00"', "a raw control character in a string"),
    ('"MARK"', '"a\\xb"', "a bad escape in a string"),
    ('"MARK"', '"\\u12"', "a bad escape in a string"),
    ('"MARK"', "NaN", "NaN, which is not JSON"),
    ('"MARK"', "-Infinity", "-Infinity, which is not JSON"),
    ('"MARK"', "[" * 2000 + "]" * 2000, "brackets nested too deep"),
    ('"MARK"', "1" * 5000, "a number of too many digits"),
    ('"MARK"', f'"{UNDECODED}"', "bytes that do not decode"),
    ('"MARK"', f'"a", {UNDECODED}', "bytes that do not decode"),
    ('"MARK"', '"a" "b"', "not JSON"),
    ('"MARK"', '"a",', "not JSON"),
    ('"MARK"', "None", "not JSON"),
    ('"MARK"', "'a'", "not JSON"),
    ('"MARK"', '"a""', "not JSON"),
    ('"MARK"', 'a"', "not JSON"),
    ('"MARK"', '["a"', "not JSON"),
    (': "MARK"', ' "MARK"', "not JSON"),
]


@pytest.mark.parametrize(("old", "new", "reason"), DAMAGE)
@pytest.mark.parametrize("row", [QUESTION, DIALOGUE], ids=["question", "dialogue"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_bad_row_costs_one_row(layout: Callable[..., str], row: Any, old: str, new: str, reason: str) -> None:
    others = [{"prompt": "1", "response": "c"}, {"prompt": "2", "response": "c"}]
    for at in range(3):
        for indent in (None, 0, 2):
            text = layout([*others[:at], row, *others[at:]], indent)
            assert old in text
            good, bad = read(text.replace(old, new))
            assert (good, list(bad.values())) == (others, [reason])


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ('{"a": 1},\n{"a": 2},\n', [{"a": 1}, {"a": 2}], {}),
        ('[{"a": 1} {"a": 2},]', [{"a": 1}, {"a": 2}], {}),
        ('[{"a": 1}][{"a": 2}]\n[]', [{"a": 1}, {"a": 2}], {}),
        ('{"a": 1}\n\n \n{"a": 2}', [{"a": 1}, {"a": 2}], {}),
        ('{"a": 1}\n\ufeff{"a": 2}', [{"a": 1}, {"a": 2}], {}),
        ('null\n3\n"a"\n[4, [5]]', [None, 3, "a", 4, 5], {}),
        ('[[{"a": 1}, {"a": 2}],\n [{"a": 3}]]', [{"a": 1}, {"a": 2}, {"a": 3}], {}),
        ('{"a": 1} and more\n{"a": 2}', [{"a": 1}, {"a": 2}], {"f:1:10": "not JSON"}),
        ('a, b\n2026-01-01\n{"a": 2}', [{"a": 2}], {"f:1": "not JSON", "f:2": "not JSON"}),
        ('{"a": 1}\n{\n{"a"\n{"a": 2}', [{"a": 1}, {"a": 2}], {"f:2": "not JSON", "f:3": "not JSON"}),
        ('{"a": [{"b": 1},\n{"a": 2}\n{"a": 3}', [{"a": 2}, {"a": 3}], {"f:1": "not JSON"}),
        ('[{"a": [{"b": 1}, {"a": 2}, {"a": 3}]', [{"a": 2}, {"a": 3}], {"f:1:2": "not JSON"}),
        ('[{"a": 1, {"a": 2}]', [{"a": 2}], {"f:1:2": "not JSON"}),
        ('{"a": 1}\n{"a": "x', [{"a": 1}], {"f:2": "cut off by the end of the file"}),
        ('[{"a": 1}, {"a": "x', [{"a": 1}], {"f:1:12": "cut off by the end of the file"}),
        ('[{"a": 1}, {"a": ', [{"a": 1}], {"f:1:12": "cut off by the end of the file"}),
        ('[{"a": 1},\n', [{"a": 1}], {"f:2": "a JSON array without its end"}),
        ('[{"a": 1}', [{"a": 1}], {"f:1": "a JSON array without its end"}),
        ('[{"a": 1}, {"a": "x]\n', [{"a": 1}], {"f:1:12": "a raw control character in a string"}),
    ],
)
def test_what_stands_between_rows_and_what_is_missing(text: str, good: list[Any], bad: dict[str, str]) -> None:
    for size in (1, 3, 1000):
        assert read(text, size) == (good, bad)


@given(
    rows=st.lists(ROWS.filter(bool), min_size=2, max_size=5), layout=st.sampled_from(LAYOUTS), indent=INDENTS,
    size=st.integers(1, 40), data=st.data(),
)  # fmt: skip
@settings(deadline=None)
def test_no_damage_inside_a_line_costs_a_row_on_another_line(
    rows: list[Any], layout: Callable[..., str], indent: int | None, size: int, data: st.DataObject
) -> None:
    if layout in (array, objects):
        rows = [{"prompt": "a", **row} for row in rows]
        if layout is array:
            indent = indent or 2
    text = layout(rows, indent)
    places = [place for _, place in json_rows(iter([text]), "f")]
    starts = [int(place.split(":")[1]) for place in places]
    bad = data.draw(st.integers(0, len(rows) - 1))
    line = data.draw(st.integers(starts[bad], starts[bad + 1] - 1 if bad + 1 < len(rows) else text.count("\n") + 1))
    held = text.split("\n")
    before = held[line - 1]
    at = data.draw(st.integers(0, len(before)))
    length = data.draw(st.integers(0, 5))
    damage = data.draw(DAMAGES.filter(str.strip))
    held[line - 1] = before[:at] + damage + before[at + length :]
    damaged = "\n".join(held)
    good, _ = read(damaged, size)
    others = [row for number, row in enumerate(rows) if number != bad]
    for row in others:
        good.remove(row)


@pytest.mark.parametrize(
    "part",
    ["[", '{"a":[', '["', '"', "{x},", '{"a":"x},', '[{"prompt": [{}, ', '{"', '{"a', '[{"a": "\\\\', "{x}\n"],
)
def test_hostile_text_takes_no_quadratic_time(part: str) -> None:
    def seconds(length: int) -> float:
        text = part * (length // len(part))
        start = time.process_time()
        for _ in json_rows(chunked(text, 2**15), "f"):
            pass
        return time.process_time() - start

    seconds(10_000)
    assert seconds(40_000) < 10 * max(seconds(10_000), 0.005)


def test_an_escape_that_lost_its_end_and_the_quote_costs_no_other_row() -> None:
    bad = '{"messages": [{"content": "\\ud800\\udc}, {"content": "{\\""}]}'
    good, bad_rows = read('[{"prompt": "a"}, ' + bad + ', {"prompt": "b"}]', 5)
    assert good == [{"prompt": "a"}, {"prompt": "b"}]
    assert list(bad_rows.values()) == ["a bad escape in a string"]


@given(
    rows=st.lists(QUESTIONS | DIALOGUES, min_size=2, max_size=5), size=st.integers(1, 40), data=st.data(),
)  # fmt: skip
@settings(deadline=None)
def test_no_damage_inside_a_row_costs_another_row_on_the_same_line(
    rows: list[Any], size: int, data: st.DataObject
) -> None:
    texts = [json.dumps(row) for row in rows]
    bad = data.draw(st.integers(0, len(rows) - 1))
    at = data.draw(st.integers(1, len(texts[bad])))
    length = data.draw(st.integers(0, 5))
    texts[bad] = texts[bad][:at] + data.draw(DAMAGES) + texts[bad][at + length :]
    good, _ = read("[" + ", ".join(texts) + "]", size)
    for row in rows[:bad] + rows[bad + 1 :]:
        good.remove(row)
