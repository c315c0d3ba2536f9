"""Text in reading order while threads still run."""

from __future__ import annotations

import torch
from transformers.generation.streamers import BaseStreamer

from .paragraph_tree import ParagraphTree


class ReadingOrderStream:
    """Hands a transformers streamer every token as soon as all tokens before it are known.

    Args:
        streamer: e.g. a `TextStreamer`.
    """

    def __init__(self, streamer: BaseStreamer) -> None:
        self._streamer = streamer
        self._sent = 0

    def update(self, readable: list[int]) -> None:
        """Hand out what is new of the answer's readable tokens."""
        for token in readable[self._sent :]:
            self._streamer.put(torch.tensor([token]))
        self._sent = len(readable)


def readable_token_ids(tree: ParagraphTree) -> list[int]:
    """The answer up to the first thread, in reading order, that still runs."""
    token_ids: list[int] = []
    for segment in tree.segments():
        thread = tree.threads[segment.thread]
        token_ids += thread.token_ids[segment.start : segment.end]
        if segment.tail and thread.finish_reason is None:
            break
    return token_ids
