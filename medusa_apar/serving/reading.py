"""Text of an answer in reading order, as far as it is certain."""

from __future__ import annotations

from collections.abc import Sequence

from .served_model import ServedModel

_BROKEN = "\N{REPLACEMENT CHARACTER}"


class ReadingText:
    """Turns an answer's readable tokens into text, piece by piece.

    Held back is what may still change: the bytes of a character that is not complete, and what may be the beginning of
    a stop string.

    Args:
        model: whose tokens they are.
        stop: strings before which the answer ends.
    """

    def __init__(self, model: ServedModel, stop: Sequence[str] = ()) -> None:
        self._model = model
        self._stop = [string for string in stop if string]
        self.text = ""
        self.stopped = False

    def update(self, readable: list[int], *, final: bool) -> str:
        """The text that is new, given all readable tokens; with `final` nothing is held back."""
        whole = self._model.text(readable)
        found = [at for string in self._stop if (at := whole.find(string)) >= 0]
        if found:
            self.stopped = True
            whole = whole[: min(found)]
        elif not final:
            whole = whole.rstrip(_BROKEN)
            whole = whole[: len(whole) - self._possible_stop(whole)]
        new = whole[len(self.text) :]
        self.text += new
        return new

    def _possible_stop(self, text: str) -> int:
        """Characters at the end of a text with which a stop string may begin."""
        longest = 0
        for string in self._stop:
            ends = (length for length in range(len(string) - 1, 0, -1) if text.endswith(string[:length]))
            longest = max(longest, next(ends, 0))
        return longest
