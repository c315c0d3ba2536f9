"""An engine that has the slow oracle write each thread, and hands its tokens out in lumps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from functools import cache
from random import Random

from transformers import PreTrainedModel

from medusa_apar.serving.engines.text_engine import EngineError, ThreadRequest

from ..conftest import CONTROL, EOS
from ..oracle import Oracle

FORBIDS_CHILD, MAY_FORK, MAY_NOT_FORK = "[Child]", "[Fork][Fork]", "[Fork]"


@dataclass
class OracleEngine:
    """What it was asked, and how many threads it writes now.

    Attributes:
        backbone: writes.
        fails_behind: tokens of all threads after which it fails.
        pause: seconds between two lumps.
        garbage: a token that it writes in place of the third lump of a thread.
    """

    backbone: PreTrainedModel
    fails_behind: float = float("inf")
    pause: float = 0.0
    garbage: int | None = None
    asked: list[ThreadRequest] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    closed: bool = False
    written: int = 0
    random: Random = field(default_factory=lambda: Random(0))

    async def stream(self, request: ThreadRequest) -> AsyncGenerator[list[int]]:
        self.asked.append(request)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            tokens, lumps = self.tokens_of(request), 0
            while tokens:
                lump = self.random.randint(1, 5)
                await asyncio.sleep(self.pause)
                if self.written >= self.fails_behind:
                    raise EngineError("the engine has failed")
                self.written += min(lump, len(tokens))
                lumps += 1
                yield tokens[:lump] if self.garbage is None or lumps != 3 else [self.garbage]
                tokens = tokens[lump:]
        finally:
            self.running -= 1

    def tokens_of(self, request: ThreadRequest) -> list[int]:
        """All tokens of a thread, under the rules that its bad words make."""
        child, fork = request.bad_words
        assert child == FORBIDS_CHILD
        assert fork in (MAY_FORK, MAY_NOT_FORK)
        depth = 1 if fork == MAY_FORK else 2
        return list(_continuation(self.backbone, tuple(request.prompt_token_ids), depth, request.max_tokens))

    async def check(self) -> None:
        if self.closed:
            raise EngineError("the engine is closed")

    async def close(self) -> None:
        self.closed = True


@cache
def _continuation(backbone: PreTrainedModel, prompt: tuple[int, ...], depth: int, max_tokens: int) -> tuple[int, ...]:
    """What the backbone writes after a thread's context; many tests ask for the same."""
    oracle = Oracle(backbone, CONTROL, EOS, max_depth=2)
    return tuple(oracle.continue_thread(list(prompt), depth, max_tokens)[0])
