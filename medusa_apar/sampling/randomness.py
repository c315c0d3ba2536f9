"""Counter-based randomness: one uniform number per (seed, prompt, thread, position), whatever was drawn before.

A stream that is consumed would depend on how many nodes were drawn, and so on the schedule. A number that is
looked up by where its token is makes sampled answers as independent of the schedule as greedy ones. Source: Salmon
et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; the mixing function is SplitMix64's (Steele et al. 2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def root_key(seed: int, prompt: Sequence[int], copy: int) -> int:
    """The 64-bit key of a row's root thread.

    The prompt stands for the row, so that a row's answer does not depend on its neighbours.

    Args:
        seed: of the whole call.
        prompt: token ids without padding.
        copy: how many rows before this one have the same prompt.
    """
    text = ",".join(map(str, (seed, copy, *prompt)))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def child_key(parent: int, ordinal: int) -> int:
    """The key of a thread's child number `ordinal`."""
    return int(child_keys(np.array([parent], dtype=np.uint64), np.array([ordinal]))[0])


def child_keys(parents: NDArray[np.uint64], ordinals: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Keys `[n]` of children number `ordinals` of the threads with keys `parents`."""
    # The constant parts children's keys from the numbers drawn at positions.
    return _mix(_mix(parents ^ np.uint64(0x5851F42D4C957F2D)) + ordinals.astype(np.uint64) * _GOLDEN)


def uniform(keys: NDArray[np.uint64], positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Numbers in [0, 1), `[n]`, for tokens at `positions` of the threads with these keys."""
    mixed = _mix(keys + positions.astype(np.uint64) * _GOLDEN)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
