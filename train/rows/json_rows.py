"""Rows of JSON text as it streams in: lines, an array, or objects one after the other, all read in one way.

Whatever is between two rows, the brackets of arrays included, only separates them. What is not JSON costs one row.
Reading goes on where the row's brackets close, or at the next place that begins like a row, whichever comes first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from .bad_rows import BadRowError
from .conversations import COLUMNS

UNDECODED = "\udcff"
"""Stands for bytes that do not decode."""

LONGEST = 2**20
"""Characters. A row that is longer and holds what begins like another one is a row whose end is missing."""

_SEPARATORS = re.compile(r"[\s,}\[\]\ufeff]*")
_TOKENS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]+|[\]}]+', re.DOTALL)
_ENDS = re.compile(r'["{}\]]|^\n')
"""What tells at an error in a string that the string's own end is missing."""
_FIRST_KEY = re.compile(r'\{\s*"((?:[^"\\\n]|\\.){1,80})"\s*:')
_SEEN_AT_ERROR = 10
"""Characters; more than the longest token, `-Infinity`, has."""
_FIRST_KEYS = 32
"""So many names are remembered with which rows begin."""

_NOT_JSON = "not JSON"
_CUT_OFF = "cut off by the end of the file"
_REASONS = {
    "Invalid control character at": "a raw control character in a string",
    "Invalid \\escape": "a bad escape in a string",
    "Invalid \\uXXXX escape": "a bad escape in a string",
}
"""Why a row cannot be used, by the messages of `json`."""


def json_rows(chunks: Iterator[str], name: str) -> Iterator[tuple[Any, str]]:
    """Yield the rows of a JSON text, and the place of each.

    Args:
        chunks: the text, in parts of any length. Lines end with line feeds; `UNDECODED` stands for bytes without text.
        name: of the file.

    Yields:
        A row, or a `BadRowError` that says why it is not a row; and `name:line` where it begins a line,
        `name:line:column` where it begins inside one, both from 1.
    """
    return _Rows(chunks, name).rows()


class _Rows:
    """A JSON text of which a part is held, and the place up to which it has been read."""

    def __init__(self, chunks: Iterator[str], name: str) -> None:
        self._chunks = chunks
        self._name = name
        self._text = ""
        self._at = 0
        self._line, self._column = 1, 1
        self._is_whole = False
        """Whether the held text reaches to the end of the file."""
        self._has_undecoded = False
        self._depth = 0
        """Of the array that the last row is in; in arrays of arrays, it counts them all."""
        self._bracket_line = 0
        """Where the last one of them begins or ends."""
        self._on_one_line = False
        """Whether the last row is on one line."""
        self._patience = LONGEST
        """Characters in which the end of a bad row may be looked for once more; grows with what has been read."""
        self._first_keys: dict[str, str] = {}
        """Names with which rows begin, and the pattern of each."""
        for column in COLUMNS:
            self._remember(column)
        self._constants: list[str] = []
        self._decode = json.JSONDecoder(parse_constant=self._constants.append).raw_decode

    def rows(self) -> Iterator[tuple[Any, str]]:
        row_line = 0  # in which the last row ends
        value: Any = None
        is_swallowed = False  # the end of an array, by a bad row
        while self._skip_to_row():
            is_first = self._line > row_line
            begins_line = is_first and self._line > self._bracket_line
            place = f"{self._name}:{self._line}" if begins_line else f"{self._name}:{self._line}:{self._column}"
            value, end = self._row(is_first)
            is_swallowed = isinstance(value, BadRowError) and self._text[self._at : end].rstrip().endswith("]")
            if self._has_undecoded and UNDECODED in self._text[self._at : end]:
                value = BadRowError("bytes that do not decode")
            line = self._line
            self._advance(end)
            row_line = self._line
            if isinstance(value, dict):
                self._on_one_line = self._line == line
                self._remember(next(iter(value), ""))
            yield value, place
        if self._depth and not is_swallowed and str(value) != _CUT_OFF:
            yield BadRowError("a JSON array without its end"), f"{self._name}:{self._line}"

    def _skip_to_row(self) -> bool:
        """Go on to where a row begins, into arrays and out of them; False at the end of the file."""
        while True:
            found = _SEPARATORS.match(self._text, self._at)
            assert found is not None
            between = found[0]
            if "[" in between or "]" in between:
                self._depth = max(0, self._depth + between.count("[") - between.count("]"))
                last = max(between.rfind("["), between.rfind("]"))
                self._bracket_line = self._line + between.count("\n", 0, last)
            self._advance(found.end())
            if self._at < len(self._text):
                return True
            if self._is_whole:
                return False
            self._read_on()

    def _row(self, is_first: bool) -> tuple[Any, int]:
        """The row that begins here, perhaps as the first one in its line, and where it ends."""
        while True:
            is_cut_off, at_error = False, ""
            self._constants.clear()
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                is_cut_off = error.msg.startswith("Unterminated") or error.pos == len(self._text)
                if (is_cut_off or error.pos > len(self._text) - _SEEN_AT_ERROR) and self._may_read_on():
                    continue
                reason = _REASONS.get(error.msg, _NOT_JSON)
                at_error = self._text[error.pos : error.pos + _SEEN_AT_ERROR]
            except RecursionError:
                reason = "brackets nested too deep"
            except ValueError:  # of `int`
                reason = "a number of too many digits"
            else:
                if end == len(self._text) and not isinstance(value, dict) and self._may_read_on():
                    continue
                if self._constants:
                    return BadRowError(f"{self._constants[0]}, which is not JSON"), end
                if isinstance(value, dict) or self._text[end : end + 1] in ("", "\n", " ", ",", "]"):
                    return value, end
                reason = _NOT_JSON
            end = self._end_of_bad_row(
                is_first,
                may_span_lines=not self._on_one_line or (reason != _NOT_JSON and at_error.startswith("\n")),
                is_balanced=reason != _NOT_JSON and not _ENDS.search(at_error),
            )
            return BadRowError(_CUT_OFF if is_cut_off and end == len(self._text) else reason), end

    def _may_read_on(self) -> bool:
        """Read on, unless the file ends or this is a row without end."""
        if self._is_whole:
            return False
        if len(self._text) - self._at > LONGEST and re.compile(self._row_start()).search(self._text, self._at + 1):
            return False
        self._read_on()
        return True

    def _end_of_bad_row(self, is_first: bool, *, may_span_lines: bool, is_balanced: bool) -> int:
        """Where the next row may begin.

        Args:
            is_first: whether the row is the first one in its line; then the next one probably begins a line.
            may_span_lines: whether the next line may belong to the row.
            is_balanced: whether quotes and brackets of the row are probably right.
        """
        has_brackets = self._text[self._at] == "{"
        is_balanced &= has_brackets
        stops = [self._row_start()]
        if not (has_brackets and may_span_lines):
            stops.append(r"\n")
        elif is_first and not re.compile(rf"\{{\n[^\S\n]{{,{self._column - 1}}}\S").match(self._text, self._at):
            stops.append(rf'(?<=\n)[^\S\n]{{,{self._column - 1}}}\{{\s*"')
        if self._depth and not has_brackets:
            stops.append(r"[,\]]")
        stop = re.compile("|".join(stops))
        length = 256
        while True:
            limit = min(self._at + length, len(self._text))
            found = stop.search(self._text, self._at + 1, limit)
            end = found.start() if found else limit
            if has_brackets and (closed := self._closed(limit if is_balanced else end, end)) is not None:
                return closed
            is_end = self._is_whole and limit == len(self._text)
            if is_end or (found and not (is_balanced and length < self._patience)):
                self._patience -= length if is_balanced else 0
                return end
            if limit == len(self._text):
                self._read_on()
            length *= 2

    def _row_start(self) -> str:
        """A pattern of what begins like the rows so far, or like the row that begins here.

        Inside a string its quotes would be escaped.
        """
        keys = dict.fromkeys(self._first_keys.values())
        if own := _FIRST_KEY.match(self._text, self._at):
            keys[re.escape(own[1])] = None
        return rf'\{{\s*"(?:{"|".join(keys)})"\s*:'

    def _remember(self, first_key: str) -> None:
        if first_key not in self._first_keys and len(self._first_keys) < _FIRST_KEYS:
            self._first_keys[first_key] = re.escape(json.dumps(first_key, ensure_ascii=False)[1:-1])

    def _closed(self, limit: int, next_row: int) -> int | None:
        """Where all brackets are closed that open from here on, if that is before `limit`.

        That is at `next_row` where this is inside a string: then a quote is missing, or there is one too many.
        """
        depth = 0
        for token in _TOKENS.finditer(self._text, self._at, limit):
            brackets = token[0]
            if brackets[0] in "{[":
                depth += len(brackets)
            elif brackets[0] == '"':
                if token.start() < next_row < token.end():
                    return next_row
            elif depth <= len(brackets):
                return token.start() + depth
            else:
                depth -= len(brackets)
        return None

    def _read_on(self) -> None:
        """Hold at least twice as much of what is not read yet, so that a long row is not parsed too often."""
        parts = [self._text[self._at :]]
        wanted, size = max(1, len(parts[0])), 0
        while size < wanted:
            chunk = next(self._chunks, None)
            if chunk is None:
                self._is_whole = True
                break
            self._has_undecoded |= UNDECODED in chunk
            parts.append(chunk)
            size += len(chunk)
        self._text, self._at = "".join(parts), 0

    def _advance(self, to: int) -> None:
        lines = self._text.count("\n", self._at, to)
        if lines:
            self._line += lines
            self._column = to - self._text.rfind("\n", self._at, to)
        else:
            self._column += to - self._at
        self._patience = min(LONGEST, self._patience + to - self._at)
        self._at = to
