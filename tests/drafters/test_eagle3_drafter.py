"""EAGLE-3 heads in the engine: every draft is what the heads say after the thread's own linear path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from medusa_apar import MedusaAparModel
from medusa_apar.drafting.draft_tree import DraftTree
from medusa_apar.heads import Eagle3Heads

from ..conftest import FORKING_SEEDS, forking_backbone, random_eagle3_heads
from ..engine.test_engine import engine_of, request


class SlowHeads:
    """The slow reference: the heads along one linear path, from its beginning, under a causal mask.

    Args:
        heads: the heads.
        backbone: that they sit on.
    """

    def __init__(self, heads: Eagle3Heads, backbone: PreTrainedModel) -> None:
        self.heads, self.backbone = heads, backbone
        heads.layer.self_attn.config._attn_implementation = "eager"

    def log_probs(self, path: Sequence[int], drafted: Sequence[int]) -> Tensor:
        """Log-probabilities `[logits]` of the token after a path of the backbone's and some draft tokens."""
        tokens = torch.tensor([*path, *drafted])
        hidden = self.backbone(tokens[None, : len(path)], output_hidden_states=True).hidden_states
        states = self.heads.fused(torch.cat([hidden[layer][0] for layer in self.heads.auxiliary_layers], dim=-1))
        cache, logits = DynamicCache(), torch.empty(0)
        for at in range(1, len(tokens)):
            state = states[at - 1]
            after, logits = self.heads.advance(
                state[None],
                tokens[at : at + 1],
                torch.tensor([at]),
                self.backbone.get_input_embeddings(),
                torch.zeros(1, 1, 1, at, dtype=states.dtype),
                cache,
            )
            if at >= len(path):
                states = torch.cat([states, after])
            elif at == len(path) - 1:
                states = torch.cat([states[:at], after])
        return logits[0].log_softmax(dim=-1)


def paths_of(tree: DraftTree) -> list[tuple[list[int], float]]:
    """Every drafted path with its log-probability."""
    paths: list[tuple[list[int], float]] = []
    above: list[list[int]] = [[]]
    for level in range(len(tree.token_ids)):
        here = []
        for place, token in enumerate(tree.token_ids[level].tolist()):
            here.append([*above[tree.parents[level, place] if level else 0], token])
            if tree.log_probs[level, place] > -float("inf"):
                paths.append((here[-1], float(tree.log_probs[level, place])))
        above = here
    return paths


@pytest.mark.parametrize(
    ("family", "max_slots"), [*((family, 4096) for family in sorted(FORKING_SEEDS)), ("qwen2", 44)]
)
def test_every_draft_is_what_the_heads_say_after_the_threads_own_path(family: str, max_slots: int) -> None:
    backbone = forking_backbone(family, FORKING_SEEDS[family])
    heads = random_eagle3_heads(backbone)
    slow = SlowHeads(random_eagle3_heads(backbone), backbone)
    compared, threads = 0, set()
    with engine_of(MedusaAparModel(backbone, heads), max_slots, requests=3) as engine:
        for number in range(3):
            engine.add(request(number, limit=16 if max_slots > 44 else 24))
        while engine.busy:
            for asked in engine.step():
                for live in asked.live[:2]:
                    if live.draft_tree is None or live.uncomputed or len(live.thread.token_ids) % 3:
                        continue
                    path = live.thread.token_ids
                    for drafted, log_prob in paths_of(live.draft_tree)[:6]:
                        wanted = slow_log_prob(slow, path, drafted)
                        assert log_prob == pytest.approx(wanted, abs=1e-5)
                        compared += 1
                    threads.add((asked.key, live.index))
        assert (engine.metrics.stats.preemptions > 0) == (max_slots < 4096)
    assert compared > 20
    assert len(threads) > 3


def slow_log_prob(slow: SlowHeads, path: Sequence[int], drafted: Sequence[int]) -> float:
    places = slow.heads.places_of(torch.tensor(drafted))
    found: list[Any] = [slow.log_probs(path, drafted[:at])[places[at]] for at in range(len(drafted))]
    return float(sum(found))
