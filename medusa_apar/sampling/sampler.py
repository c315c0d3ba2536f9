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

from .processors import (
    check_supported,
    is_context_free,
    of_row,
    on_device,
    process,
    same_for_all_rows,
    split_at_top_k,
    split_warpers,
)

_CANDIDATES = 4
"""Times top-k: tokens among which warpers choose. Tokens that tie with the last of top-k are kept, too."""


@dataclass(frozen=True, slots=True)
class SamplingInputs:
    """What sampling the token after each node needs to know.

    Attributes:
        token_ids: `[nodes]` on the device, each node's own token.
        fork_allowed: `[nodes]` whether the thread may fork.
        uniforms: looks up the uniform number `[nodes]` of the token after each node; called when sampling.
        contexts: builds the contexts, the request's padding, prompt and path up to the node; called where needed.
    """

    token_ids: Tensor
    fork_allowed: NDArray[np.bool_]
    uniforms: Callable[[], NDArray[np.float64]]
    contexts: Callable[[], Sequence[list[int]]]

    def of(self, nodes: NDArray[np.int64]) -> SamplingInputs:
        """Those of some nodes."""

        def contexts() -> list[list[int]]:
            every = self.contexts()
            return [every[node] for node in nodes.tolist()]

        return SamplingInputs(
            token_ids=self.token_ids[to_device(nodes, self.token_ids.device)],
            fork_allowed=self.fork_allowed[nodes],
            uniforms=lambda: self.uniforms()[nodes],
            contexts=contexts,
        )


class Sampler:
    """Picks tokens as `generate` does, for the nodes of one request, or of several with the same parameters.

    Args:
        processors: logits processors of the request.
        control: the control tokens, whose rules come after the user's processors; None where there are none.
        sample: draw from the processed distribution; else take its best token.
        device: where processors keep their tensors and get their arguments: that of `input_ids`, which need not be
            the backbone's.

    Raises:
        ValueError: for a processor that cannot be asked about many tokens at once.
    """

    def __init__(
        self, processors: LogitsProcessorList, control: ControlTokens | None, *, sample: bool, device: torch.device
    ) -> None:
        check_supported(processors)
        self._sample = sample
        self._control = control
        self._context_free = is_context_free(processors)
        before, warpers = split_warpers(processors)
        ranked, self._top_k = LogitsProcessorList(), None
        if sample:
            warpers, ranked, self._top_k = split_at_top_k(warpers)
        self._warp_together = is_context_free(warpers)
        self._before, self._warpers = on_device(before, device), on_device(warpers, device)
        self._ranked = on_device(ranked, device)

    @staticmethod
    def of_batch(
        processors: LogitsProcessorList,
        rows: int,
        control: ControlTokens | None,
        *,
        sample: bool,
        device: torch.device,
    ) -> list[Sampler]:
        """The sampler of every row of a batch; one for all where no processor goes by the row.

        Args:
            processors: what `generate` builds for the batch, the user's own processors among them.
            rows: of the batch.
            control: as for a sampler.
            sample: as for a sampler.
            device: as for a sampler.
        """
        check_supported(processors)

        def of(row: int) -> Sampler:
            return Sampler(of_row(processors, row, rows, control), control, sample=sample, device=device)

        return [of(0)] * rows if same_for_all_rows(processors) else [of(row) for row in range(rows)]

    def __call__(self, logits: Tensor, inputs: SamplingInputs) -> tuple[Tensor, Tensor]:
        """Pick the token after each node.

        Args:
            logits: `[nodes, vocabulary]`.
            inputs: of the nodes.

        Returns:
            Tokens `[nodes]` int64, and processed scores `[nodes, vocabulary]`. Scores are float32, as transformers has
            them, but where the best of raw logits is the same token.
        """
        scores = self._scores(logits, inputs)
        if not self._sample:
            return scores.max(dim=-1).indices, scores  # argmax takes four times as long in bfloat16
        uniforms = to_device(inputs.uniforms(), scores.device)
        last: Any = inputs.token_ids[:, None]
        if self._top_k is None:
            return _drawn(scores, uniforms), scores
        return self._draw_among_best(scores, last, uniforms, self._top_k)

    def _scores(self, logits: Tensor, inputs: SamplingInputs) -> Tensor:
        """Processed scores; when sampling, the warpers from top-k on are still to come."""
        if self._context_free and not (self._before or self._warpers or self._sample or logits.dtype == torch.float64):
            return self._ruled(logits, inputs)
        scores = logits.float()
        last: Any = inputs.token_ids[:, None]
        if self._context_free:
            return self._warpers(last, self._ruled(self._before(last, scores), inputs))
        contexts = inputs.contexts()
        if self._before:
            scores = process(self._before, contexts, scores)
        scores = self._ruled(scores, inputs)
        if self._warp_together:
            return self._warpers(last, scores)
        return process(self._warpers, contexts, scores)

    def _draw_among_best(self, scores: Tensor, last: Any, uniforms: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """Tokens and scores after top-k and the warpers behind it, which see a few candidates, not the vocabulary.

        A sort of the whole vocabulary, as top-p does it, takes longer than a layer of a small model.
        """
        best = scores.topk(min(_CANDIDATES * top_k, scores.shape[-1]))
        candidates = best.indices.sort().values
        chosen = self._ranked(last, scores.gather(1, candidates))
        tokens = candidates.gather(1, _drawn(chosen, uniforms)[:, None])[:, 0]
        warped = torch.full_like(scores, -torch.inf).scatter_(1, candidates, chosen)
        tied = ~(best.values[:, -1] < best.values[:, min(top_k, scores.shape[-1]) - 1])  # or not numbers
        if tied.any():  # with tokens that are no candidates: ask about the whole vocabulary
            warped[tied] = self._ranked(last[tied], scores[tied])
            tokens[tied] = _drawn(warped[tied], uniforms[tied])
        return tokens, warped

    def _ruled(self, scores: Tensor, inputs: SamplingInputs) -> Tensor:
        if self._control is None:
            return scores
        fork_allowed = to_device(inputs.fork_allowed, scores.device)
        return ControlTokenRules(self._control, fork_allowed=fork_allowed)(inputs.token_ids[:, None], scores)


def sample(
    samplers: Sequence[Sampler], thread: NDArray[np.int64], logits: Tensor, inputs: SamplingInputs
) -> tuple[Tensor, Tensor]:
    """Pick the token after every node, each by its request's sampler.

    Args:
        samplers: of the threads; nodes of one sampler are asked about together.
        thread: `[nodes]` index of each node's thread.
        logits: `[nodes, vocabulary]`.
        inputs: of the nodes.

    Returns:
        Tokens `[nodes]` int64, and processed scores `[nodes, vocabulary]`.
    """
    distinct = list(dict.fromkeys(samplers))
    if len(distinct) == 1:
        return distinct[0](logits, inputs)
    tokens = torch.empty(len(thread), dtype=torch.int64, device=logits.device)
    scores = torch.empty_like(logits, dtype=torch.promote_types(logits.dtype, torch.float32))
    for sampler in distinct:
        nodes = np.flatnonzero(np.array([each is sampler for each in samplers])[thread])
        at, own = to_device(nodes, logits.device), inputs.of(nodes)
        tokens[at], processed = sampler(logits[at], own)
        scores[at] = processed.to(scores.dtype)
    return tokens, scores


def _drawn(scores: Tensor, uniforms: Tensor) -> Tensor:
    return inverse_cdf(scores.softmax(dim=-1, dtype=torch.float64), uniforms)


def inverse_cdf(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Turn uniform numbers into tokens.

    Args:
        probabilities: `[nodes, vocabulary]`.
        uniforms: `[nodes]` in [0, 1).

    Returns:
        `[nodes]` int64; tokens of probability 0 are never among them.
    """
    cumulative = probabilities.cumsum(dim=-1)
    total = cumulative[:, -1]
    target = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
    return found.clamp(max=probabilities.shape[-1] - 1)  # a token also where probabilities are not numbers
