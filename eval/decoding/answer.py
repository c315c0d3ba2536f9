"""What one call of `generate`, or of what is beside it, gave."""

from __future__ import annotations

from dataclasses import dataclass, field

import psutil

from medusa_apar.output import DecodingStats
from medusa_apar.tree.paragraph_tree import ParagraphTree


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call gave.

    Attributes:
        token_ids: the first row's answer without its prompt.
        tree: the threads that wrote it; None for baselines.
        stats: the decoder's figures over all rows. Of baselines the tokens, steps and seconds alone are known, of
            `generate` the slots too.
        seconds: wall time around the call.
        memory: bytes that its process held after the call. Modes and baselines share one process.
    """

    token_ids: list[int]
    stats: DecodingStats
    seconds: float
    tree: ParagraphTree | None = None
    memory: int = field(default_factory=lambda: psutil.Process().memory_info().rss)
