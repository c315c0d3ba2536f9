"""Reasoning that a model writes before its answer, as `<think>` marks it."""

from __future__ import annotations

import re

_CLOSED = re.compile(
    r"</(?:think|thinking|thought|reasoning|reflection|scratchpad)>|\[/THINK\]|◁/think▷", re.IGNORECASE
)
_OPENED = re.compile(
    r"\s*(?:<(?:think|thinking|thought|reasoning|reflection|scratchpad)>|\[THINK\]|◁think▷)", re.IGNORECASE
)


def reasoning_end(text: str) -> int:
    """Where the reasoning of a text ends, which stays whole: 0 without any, the text's length where it is not closed.

    A closing tag alone counts too: some chat templates write the opening one into the prompt.
    """
    end = 0
    for closed in _CLOSED.finditer(text):
        end = closed.end()
    return len(text) if _OPENED.match(text, end) else end
