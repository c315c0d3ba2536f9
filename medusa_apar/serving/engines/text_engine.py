"""An engine writes plain threads: token ids in, token ids out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..requests import Sampling

TIMEOUT = 300.0
"""Seconds of silence after which what decodes has stalled."""


class EngineError(RuntimeError):
    """What decodes has failed; says what and what to do."""


@dataclass(frozen=True, slots=True)
class ThreadRequest:
    """One thread to write.

    Attributes:
        prompt_token_ids: all of its context.
        max_tokens: most tokens to write.
        bad_words: texts of token sequences that may not be written; as vLLM's argument of that name.
        stop_token_ids: tokens that end it; they are part of what comes back.
        sampling: how tokens are drawn.
        answer: names the answer; its threads share a prefix.
        priority: the answer's place among all answers; where room is short, threads of the lowest go first.
    """

    prompt_token_ids: Sequence[int]
    max_tokens: int
    bad_words: Sequence[str]
    stop_token_ids: Sequence[int]
    sampling: Sampling
    answer: str
    priority: int


class Engine(Protocol):
    """Decodes plain threads, many at a time, and shares the keys and values of their prefixes."""

    def stream(self, request: ThreadRequest) -> AsyncGenerator[list[int]]:
        """Write a thread, and yield its new token ids as they come.

        Closing the generator before its end cancels the thread.

        Raises:
            EngineError: the thread cannot be finished.
        """

    async def check(self) -> None:
        """Raise an `EngineError` if no thread could be written now."""

    async def close(self) -> None:
        """Let go of the engine."""
