"""A sampler whose warpers see a few candidates draws what it would draw from the whole vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from medusa_apar.sampling.sampler import Sampler, SamplingInputs, inverse_cdf

NODES, VOCABULARY = 64, 1000
WARPERS: dict[str, list[LogitsProcessor]] = {
    "top-k": [TopKLogitsWarper(7)],
    "temperature, top-k, top-p": [TemperatureLogitsWarper(0.3), TopKLogitsWarper(50), TopPLogitsWarper(0.9)],
    "top-k, top-p, min-p": [TopKLogitsWarper(20), TopPLogitsWarper(0.95), MinPLogitsWarper(0.02)],
    "top-k, typical": [TopKLogitsWarper(20), TypicalLogitsWarper(0.8)],
    "top-k of all": [TopKLogitsWarper(5000), TopPLogitsWarper(0.9)],
    "top-k behind top-p": [TopPLogitsWarper(0.9), TopKLogitsWarper(20)],
    "with another filter value": [TopKLogitsWarper(20, filter_value=-1e4), TopPLogitsWarper(0.9)],
    "a penalty before": [RepetitionPenaltyLogitsProcessor(1.5), TopKLogitsWarper(20), TopPLogitsWarper(0.9)],
}


def logits_of(kind: str) -> Tensor:
    logits = 3 * torch.randn(NODES, VOCABULARY, generator=torch.Generator().manual_seed(0))
    if kind == "bfloat16":
        return logits.bfloat16()  # a token or two tie with the last of top-k
    if kind == "tied":
        logits[::2] = logits[::2].round()  # hundreds do
    if kind == "forbidden":
        logits[::2, 5:] = -torch.inf  # fewer than top-k are left
    return logits


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "tied", "forbidden"])
@pytest.mark.parametrize("name", WARPERS)
def test_draws_are_those_of_the_whole_vocabulary(name: str, kind: str) -> None:
    logits, processors = logits_of(kind), LogitsProcessorList(WARPERS[name])
    contexts = [[node, 7, 9] for node in range(NODES)]
    uniforms = np.linspace(0, 1, NODES, endpoint=False)
    inputs = SamplingInputs(
        torch.tensor(contexts)[:, -1], np.ones(NODES, dtype=bool), lambda: uniforms, lambda: contexts
    )
    tokens, scores = Sampler(processors, None, sample=True, device=torch.device("cpu"))(logits, inputs)

    ids: Any = torch.tensor(contexts)
    whole = processors(ids, logits.float())
    # Top-p drops any of several tokens with the same score.
    torch.testing.assert_close(scores.sort().values, whole.sort().values)
    assert torch.equal(tokens, inverse_cdf(scores.softmax(-1, torch.float64), torch.from_numpy(uniforms)))


def test_a_draw_does_not_depend_on_the_other_nodes() -> None:
    """Rows with ties are drawn from the whole vocabulary; those beside them are not."""
    logits = logits_of("tied")
    sampler = Sampler(
        LogitsProcessorList(WARPERS["temperature, top-k, top-p"]), None, sample=True, device=torch.device("cpu")
    )
    uniforms = np.linspace(0, 1, NODES, endpoint=False)

    def draw(nodes: list[int]) -> tuple[Tensor, Tensor]:
        inputs = SamplingInputs(
            torch.zeros(len(nodes), dtype=torch.int64), np.ones(len(nodes), dtype=bool), lambda: uniforms[nodes], list
        )
        return sampler(logits[nodes], inputs)

    tokens, scores = draw(list(range(NODES)))
    for node in range(NODES):
        token, score = draw([node])
        assert token == tokens[node]
        assert torch.equal(score[0], scores[node])
