"""Draft tokens without heads: what came after the same n-gram earlier in the request, in whichever thread.

Source: prompt lookup decoding (Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import log

SIZES = (4, 3, 2)
"""Of the n-grams that are looked up, the first that is found counts."""
AHEAD = 8
"""Draft tokens at most."""

_PRIORS = {2: 0.3, 3: 0.5, 4: 0.7}
"""How often the token after an n-gram is the one that came after it before, until a request tells otherwise."""
_PRIOR_WEIGHT = 8
_MOST_LIKELY = 0.98


@dataclass(frozen=True, slots=True)
class Continuation:
    """What came after an n-gram before.

    Attributes:
        token_ids: the tokens, in their order.
        log_probs: of each being accepted with all before it; they fall.
        size: of the n-gram.
    """

    token_ids: list[int]
    log_probs: list[float]
    size: int


class NgramDrafter:
    """Looks n-grams up in the prompt of a request and in what its threads have written."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], tuple[list[int], int]] = {}
        """The last place after each n-gram that has a token: the thread's tokens, and an index into them."""
        self._read: dict[int, int] = {}
        """How many tokens of each thread are known."""
        self._tried = dict.fromkeys(SIZES, float(_PRIOR_WEIGHT))
        self._right = {size: _PRIOR_WEIGHT * _PRIORS[size] for size in SIZES}

    def propose(self, thread: int, token_ids: list[int], start: int = 0) -> Continuation | None:
        """What may come after a thread's tokens; None if their last n-grams are new.

        Args:
            thread: its number.
            token_ids: its tokens, in the same list every time.
            start: of the tokens that it does not share with another thread.
        """
        self._index(token_ids, max(start, self._read.get(thread, 0)))
        self._read[thread] = len(token_ids)
        for size in SIZES:
            found = self._ends.get(tuple(token_ids[-size:]))
            if found is not None and len(token_ids) >= size:
                source, end = found
                drafted = source[end : end + AHEAD]
                return Continuation(drafted, self._log_probs(size, len(drafted)), size)
        return None

    def update(self, proposed: Continuation, written: Sequence[int]) -> None:
        """Update the acceptance rates.

        Args:
            proposed: after a pending token.
            written: the tokens that the thread wrote there, at least one.
        """
        pairs = list(zip(proposed.token_ids, written, strict=False))
        right = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        for place in range(min(right + 1, len(pairs))):
            size = min(proposed.size + place, SIZES[0])
            self._tried[size] += 1
            self._right[size] += place < right

    def _index(self, token_ids: list[int], start: int) -> None:
        for size in SIZES:
            for end in range(max(start, size), len(token_ids)):
                self._ends[tuple(token_ids[end - size : end])] = token_ids, end

    def _log_probs(self, size: int, count: int) -> list[float]:
        log_probs, total = [], 0.0
        for place in range(count):
            matched = min(size + place, SIZES[0])
            total += log(min(_MOST_LIKELY, self._right[matched] / self._tried[matched]))
            log_probs.append(total)
        return log_probs
