"""An answer while it is written: its pieces in reading order, and which of them still grow."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from medusa_apar.sampling.logprobs import LogprobsRecorder, TokenLogprobs
from medusa_apar.tree.paragraph_tree import ParagraphTree

from .requests import AnswerRequest


@dataclass(frozen=True, slots=True)
class Piece:
    """Visible tokens of one thread between two forks.

    Attributes:
        thread: index of the thread; 0 is the root thread.
        token_ids: what is written of it.
        running: whether the thread writes on right after it.
        logprobs: of the tokens, where they are wanted.
    """

    thread: int
    token_ids: list[int]
    running: bool
    logprobs: Sequence[TokenLogprobs | None] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An answer at one moment.

    Attributes:
        pieces: in reading order.
        threads: opened so far, the root thread among them.
        finish_reason: `stop` or `length`; None while a thread runs.
        cached_tokens: of the prompt; an earlier request had computed them.
    """

    pieces: list[Piece]
    threads: int
    finish_reason: Literal["stop", "length"] | None
    cached_tokens: int = 0

    @staticmethod
    def of(
        tree: ParagraphTree, limit: int, logprobs: LogprobsRecorder | None = None, cached_tokens: int = 0
    ) -> Snapshot:
        """The answer that a tree of threads holds, cut after so many visible tokens."""
        finished = tree.complete
        if finished:
            tree = tree.trimmed(limit)
        pieces, room = [], limit
        for segment in tree.segments():
            thread = tree.threads[segment.thread]
            token_ids = thread.token_ids[segment.start : segment.end][:room]
            running = segment.tail and thread.finish_reason is None
            end = segment.start + len(token_ids)
            known = () if logprobs is None else logprobs.of_span(thread, segment.start, end)
            pieces.append(Piece(segment.thread, token_ids, running, known))
            room -= len(token_ids)
        reasons = {thread.finish_reason for thread in tree.threads}
        reason: Literal["stop", "length"] = "length" if reasons & {"length", "context"} else "stop"
        return Snapshot(pieces, len(tree.threads), reason if finished else None, cached_tokens)

    @property
    def readable(self) -> list[int]:
        """The answer's tokens up to the first piece, in reading order, that still grows."""
        return [token for piece in self._readable_pieces() for token in piece.token_ids]

    @property
    def readable_logprobs(self) -> list[TokenLogprobs | None]:
        """Those of the readable tokens, where they are wanted."""
        return [each for piece in self._readable_pieces() for each in piece.logprobs]

    def _readable_pieces(self) -> Iterator[Piece]:
        for piece in self.pieces:
            yield piece
            if piece.running:
                return

    @property
    def running(self) -> int:
        """Threads that still write."""
        return sum(piece.running for piece in self.pieces)

    @property
    def tokens(self) -> int:
        """Visible tokens, readable or not."""
        return sum(len(piece.token_ids) for piece in self.pieces)


class Answerer(Protocol):
    """Writes answers; several at a time.

    Attributes:
        sees_scores: whether it takes requests for grammars and log-probabilities.
    """

    sees_scores: bool

    def answer(self, request: AnswerRequest) -> AsyncGenerator[Snapshot]:
        """Write an answer, and yield it from time to time while it grows; the last snapshot has a finish reason.

        Closing the generator before its end cancels all threads of the answer.

        Raises:
            EngineError: what decodes has failed, and the answer cannot be finished.
        """

    def kv_slots(self) -> dict[str, int]:
        """KV slots by state: `running` requests see them, `kept` ones are there for later prompts; `{}`: not known."""

    async def check(self) -> None:
        """Raise an `EngineError` if no answer could be written now."""

    async def close(self) -> None:
        """Let go of everything; answers that are being written end with an `EngineError`."""
