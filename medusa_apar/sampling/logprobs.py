"""Log-probabilities of an answer's tokens, by the backbone's own distribution."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers import LogitsProcessor

from medusa_apar.tree.paragraph_tree import ParagraphTree, Thread

LEAST = -9999.0
"""In place of minus infinity, which JSON has no word for; vLLM's number."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A token of an answer.

    Attributes:
        token_id: the token.
        logprob: its log-probability.
        top: the likeliest tokens there and their log-probabilities, the best first.
    """

    token_id: int
    logprob: float
    top: list[tuple[int, float]]


class LogprobsRecorder(LogitsProcessor):
    """Sees scores after all nodes of a step, before anything changes them, and keeps those of tokens that are taken.

    Args:
        top: how many of the likeliest tokens are kept.
        prompt_length: tokens before the answer.
    """

    def __init__(self, top: int, prompt_length: int) -> None:
        self._top = top
        self._prompt_length = prompt_length
        self._seen: dict[tuple[int, ...], Tensor] = {}
        self._kept: dict[tuple[int, ...], TokenLogprobs] = {}  # by the path that ends with the token
        self._read: list[int] = []  # tokens of each thread

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        answers = input_ids[:, self._prompt_length :].tolist()
        self._seen |= zip(map(tuple, answers), scores.float().log_softmax(dim=-1), strict=True)
        return scores

    def update(self, tree: ParagraphTree) -> None:
        """Keep what belongs to the tokens that a step has appended to an answer's threads, and forget the rest."""
        self._read += [thread.own_start for thread in tree.threads[len(self._read) :]]
        for index, thread in enumerate(tree.threads):
            for at in range(self._read[index], len(thread.token_ids)):
                path = tuple(thread.token_ids[self._prompt_length : at + 1])
                row = self._seen.get(path[:-1])
                if row is not None:
                    self._kept[path] = self._of(row, path[-1])
            self._read[index] = len(thread.token_ids)
        self._seen.clear()

    def of_span(self, thread: Thread, start: int, end: int) -> list[TokenLogprobs | None]:
        """Those of the tokens `token_ids[start:end]` of a thread; None for `[Child]`, which no score led to."""
        path = thread.token_ids[self._prompt_length : end]
        return [self._kept.get(tuple(path[: at + 1 - self._prompt_length])) for at in range(start, end)]

    def _of(self, row: Tensor, token: int) -> TokenLogprobs:
        best = row.topk(self._top)
        top = zip(best.indices.tolist(), best.values.clamp(min=LEAST).tolist(), strict=True)
        return TokenLogprobs(token, max(LEAST, float(row[token])), list(top))
