"""Text of an answer in reading order, as far as it is certain."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from .served_model import ServedModel

_BROKEN = "\N{REPLACEMENT CHARACTER}"


class IncrementalDetokenizer:
    """Turns an answer's readable tokens into text, piece by piece.

    Held back is what may still change: the bytes of a character that is not complete, and what may be the beginning of
    a stop string.

    Args:
        model: whose tokens they are.
        stop: strings before which the answer ends.

    Attributes:
        text: what is certain so far.
        tokens: of the answer so far, those of a stop string among them.
        stopped: whether a stop string has ended it.
    """

    def __init__(self, model: ServedModel, stop: Sequence[str] = ()) -> None:
        self._model = model
        self._stop = [string for string in stop if string]
        self.text = ""
        self.tokens = 0
        self.stopped = False

    def update(self, readable: list[int], *, final: bool) -> str:
        """The text that is new, given all readable tokens; with `final` nothing is held back."""
        whole, self.tokens = self._model.text(readable), len(readable)
        stop = self._first_stop(whole)
        if stop is not None:
            self.stopped = True
            # However many tokens came at once, those after the stop string do not count.
            counts = range(len(readable))
            self.tokens = bisect_left(counts, True, key=lambda count: self._stops_within(readable[:count]))
            whole = whole[:stop]
        elif not final:
            whole = whole.rstrip(_BROKEN)
            whole = whole[: len(whole) - self._possible_stop(whole)]
        new = whole[len(self.text) :]
        self.text += new
        return new

    def _stops_within(self, token_ids: list[int]) -> bool:
        return self._first_stop(self._model.text(token_ids)) is not None

    def _first_stop(self, text: str) -> int | None:
        """Where the stop string begins that is complete first, if any is."""
        ends = [(at + len(string), at) for string in self._stop if (at := text.find(string)) >= 0]
        return min(ends)[1] if ends else None

    def _possible_stop(self, text: str) -> int:
        """Characters at the end of a text with which a stop string may begin."""
        longest = 0
        for string in self._stop:
            ends = (length for length in range(len(string) - 1, 0, -1) if text.endswith(string[:length]))
            longest = max(longest, next(ends, 0))
        return longest
