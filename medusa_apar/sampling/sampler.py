"""The backbone's token after every node: processed scores, then the best token or a sampled one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessorList

from medusa_apar.runner.transfer import to_device
from medusa_apar.tree.control_tokens import ControlTokenRules, ControlTokens

from .processors import check_supported, is_context_free, of_row, on_device, process, split_warpers


@dataclass(frozen=True, slots=True)
class Places:
    """Where nodes stand, as the choice of the token after each of them needs it.

    Attributes:
        token_ids: `[nodes]` on the device, each node's own token.
        rows: `[nodes]` row of the batch.
        fork_allowed: `[nodes]` whether the thread may fork.
        numbers: looks up the uniform number `[nodes]` of the token after each node; called when sampling.
        contexts: builds the contexts, the row's padding, prompt and path up to the node; called where needed.
    """

    token_ids: Tensor
    rows: NDArray[np.int64]
    fork_allowed: NDArray[np.bool_]
    numbers: Callable[[], NDArray[np.float64]]
    contexts: Callable[[], Sequence[list[int]]]


class TokenChooser:
    """Chooses as `generate` does.

    Args:
        processors: what `generate` builds for the batch, the user's own processors among them.
        rows: rows of the batch.
        control: the control tokens, whose rules stand behind the user's processors; None where there are none.
        sample: draw from the processed distribution; else take its best token.
        device: where processors keep their tensors and get their arguments: that of `input_ids`, which need not be
            the backbone's.

    Raises:
        ValueError: for a processor that cannot be asked about many tokens at once.
    """

    def __init__(
        self,
        processors: LogitsProcessorList,
        rows: int,
        control: ControlTokens | None,
        *,
        sample: bool,
        device: torch.device,
    ) -> None:
        check_supported(processors)
        self.sample = sample
        self._control = control
        self._context_free = is_context_free(processors)
        by_row = [of_row(processors, row, rows, control) for row in range(1 if self._context_free else rows)]
        self._by_row = [
            (on_device(before, device), on_device(warpers, device)) for before, warpers in map(split_warpers, by_row)
        ]

    def scores(self, logits: Tensor, places: Places) -> Tensor:
        """Processed scores `[nodes, vocabulary]`, from raw `logits` of that shape.

        They are float32, as transformers has them, but where the best of raw logits is the same token.
        """
        before, warpers = self._by_row[0]
        if self._context_free and not (before or warpers or self.sample or logits.dtype == torch.float64):
            return self._ruled(logits, places)
        scores = logits.float()
        if self._context_free:
            last: Any = places.token_ids[:, None]
            return warpers(last, self._ruled(before(last, scores), places))
        contexts = places.contexts()
        return self._each_row(1, self._ruled(self._each_row(0, scores, places, contexts), places), places, contexts)

    def choose(self, scores: Tensor, places: Places) -> Tensor:
        """The token after each node, `[nodes]` int64, from processed scores."""
        if not self.sample:
            return scores.max(dim=-1).indices  # those of argmax, which takes four times as long in bfloat16
        numbers = to_device(places.numbers(), scores.device)
        return inverse_cdf(scores.softmax(dim=-1, dtype=torch.float64), numbers)

    def _ruled(self, scores: Tensor, places: Places) -> Tensor:
        if self._control is None:
            return scores
        fork_allowed = to_device(places.fork_allowed, scores.device)
        return ControlTokenRules(self._control, fork_allowed=fork_allowed)(places.token_ids[:, None], scores)

    def _each_row(self, part: int, scores: Tensor, places: Places, contexts: Sequence[list[int]]) -> Tensor:
        processed = scores.clone()
        for row in np.unique(places.rows).tolist():
            if processors := self._by_row[row][part]:
                nodes = np.flatnonzero(places.rows == row).tolist()
                processed[nodes] = process(processors, [contexts[node] for node in nodes], scores[nodes])
        return processed


def inverse_cdf(probabilities: Tensor, numbers: Tensor) -> Tensor:
    """Turn uniform numbers into tokens.

    Args:
        probabilities: `[nodes, vocabulary]`.
        numbers: `[nodes]` in [0, 1).

    Returns:
        `[nodes]` int64; tokens of probability 0 are never among them.
    """
    cumulative = probabilities.cumsum(dim=-1)
    total = cumulative[:, -1]
    target = torch.minimum(numbers * total, torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
    return found.clamp(max=probabilities.shape[-1] - 1)  # a token also where probabilities are not numbers
