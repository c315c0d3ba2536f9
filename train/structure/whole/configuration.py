"""Configuration and data: YAML, INI and its kin, CSV."""

from __future__ import annotations

import csv
import re

from ..markers import ITEM_LINE
from .blocks import blocks

_LEAST_LINES = 3
_YAML_LINE = re.compile(
    r"""(?P<indent>[ ]*)(?P<item>(?:-[ ]+)*)(?:
    (?P<key>["']?[A-Za-z_][\w.\-/]*["']?):(?:[ ]+(?P<value>\S.*))?
    |(?<=[ ])\S+
    |\#.*|---
    )[ \t]*""",
    re.VERBOSE,
)
_LEAST_PAIRS = 2
_LEAST_LEVELS = 3
"""Levels of indentation from which keys may begin with capitals, as titles do."""
_COMMENTS = r"(?:[ \t]*(?:[;#].*)?\n)*"
_ASSIGNMENT = r"[ \t]*(?:export[ ])?[A-Za-z_][\w.-]*[ \t]?=[ \t]?\S"
_SECTION = re.compile(rf"^[ \t]*\[[\w .:\"/-]+\][ \t]*\n{_COMMENTS}{_ASSIGNMENT}", re.MULTILINE)
_ASSIGNMENTS = re.compile(rf"^{_ASSIGNMENT}.*\n{_COMMENTS}{_ASSIGNMENT}", re.MULTILINE)

_DELIMITERS = "\t;,"
_LONGEST_FIELD = 40
_PROSE = re.compile(rf"{ITEM_LINE}|.*(?::[ ]|[.!?:,;][ \t]*$)")


def is_configuration(text: str) -> bool:
    """Whether a text holds a block of YAML, of assignments (INI, TOML, dotenv) or of delimited rows (CSV, TSV)."""
    if "=" in text and (_SECTION.search(text) or _ASSIGNMENTS.search(text)):
        return True
    return any(_is_yaml(lines) or _is_rows(lines) for lines in blocks(text) if len(lines) >= _LEAST_LINES)


def _is_yaml(lines: list[str]) -> bool:
    """Whether lines are YAML mappings, of which some are not items of a list."""
    pairs, indents, titled = 0, set(), False
    for line in lines:
        found = _YAML_LINE.fullmatch(line)
        if found is None or (found["value"] or "").endswith((".", "!", "?")):
            return False
        if found["key"] and not found["item"]:
            pairs += 1
            titled |= found["key"][0].isupper()
            indents.add(len(found["indent"]))
    return pairs >= _LEAST_PAIRS and (not titled or len(indents) >= _LEAST_LEVELS)


def _is_rows(lines: list[str]) -> bool:
    """Whether lines are rows of equally many short fields, and neither sentences nor items of a list."""
    if any(map(_PROSE.match, lines)):
        return False
    for delimiter in _DELIMITERS:
        if delimiter not in lines[0]:
            continue
        rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
        columns = len(rows[0])
        is_spaced = columns == 2 and f"{delimiter} " in lines[0]  # a comma of prose
        if all(len(row) == columns for row in rows) and not is_spaced:
            return all(len(field) <= _LONGEST_FIELD for row in rows for field in row)
    return False
