"""Trees of draft tokens: the likeliest paths that heads see, against every path scored one by one."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from medusa_apar.drafters.drafter import Beam, Drafter
from medusa_apar.drafters.new_drafter import new_drafter
from medusa_apar.drafters.pending_tokens import PendingTokens
from medusa_apar.drafting.fixed_tree import FixedTree
from medusa_apar.heads import DraftHeads, SequentialHeads
from medusa_apar.runner.model_runner import ModelRunner

from ..conftest import (
    VOCABULARY,
    forking_backbone,
    random_draft_vocabulary_heads,
    random_heads,
    random_sequential_heads,
)

HEADS = 3
ROWS = 4
Path = tuple[int, ...]


KINDS = {
    "medusa": random_heads,
    "sequential": random_sequential_heads,
    "draft vocabulary": random_draft_vocabulary_heads,
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def heads(request: pytest.FixtureRequest) -> DraftHeads:
    heads: DraftHeads = request.param(forking_backbone(dtype=torch.float32), num_heads=HEADS)
    heads.config.calibration_temperature = [0.5, 1.0, 2.0]
    return heads


def drafter_of(heads: DraftHeads, backbone: PreTrainedModel) -> Drafter:
    return new_drafter(heads, ModelRunner(backbone))


def log_probs_along(heads: DraftHeads, backbone: PreTrainedModel, hidden: Tensor, path: Path) -> Tensor:
    """Calibrated log-probabilities `[heads, vocabulary]` of every head behind known tokens, one row."""
    ends = backbone.get_output_embeddings(), backbone.get_input_embeddings()
    padded = torch.tensor([*path, *[0] * (HEADS - len(path))])
    logits = heads(hidden, *ends, padded) / torch.tensor(heads.config.calibration_temperature)[:, None]
    if heads.draft_token_ids is None:
        return logits.log_softmax(dim=-1)
    log_probs = torch.full((HEADS, VOCABULARY), -torch.inf)
    log_probs[:, heads.draft_token_ids] = logits.log_softmax(dim=-1)[:, :-1]
    return log_probs


def paths_of(token_ids: Tensor, parents: Tensor, log_probs: Tensor) -> list[dict[Path, float]]:
    """Per level the drafted paths of one row, and their log-probabilities."""
    levels: list[dict[Path, float]] = []
    above: list[Path] = [()]
    for level in range(len(token_ids)):
        here = [
            (*above[at], token) for at, token in zip(parents[level].tolist(), token_ids[level].tolist(), strict=True)
        ]
        levels.append({p: s for p, s in zip(here, log_probs[level].tolist(), strict=True) if s > -torch.inf})
        above = here
    return levels


@torch.inference_mode()
def test_draft_tokens_are_the_likeliest_paths_behind_the_likeliest_paths(heads: DraftHeads) -> None:
    backbone = forking_backbone(dtype=torch.float32)
    hidden, pending = torch.randn(ROWS, 32), torch.tensor([5, 9, 9, 30])
    drafter = drafter_of(heads, backbone)
    token_ids, parents, log_probs = drafter.propose(PendingTokens(pending, hidden), drafter.beams[0])
    width = token_ids.shape[2]
    for row in range(ROWS):
        kept: dict[Path, float] = {(): 0.0}
        for level, found in enumerate(paths_of(token_ids[row], parents[row], log_probs[row])):
            every = {}
            for path, score in kept.items():
                step = log_probs_along(heads, backbone, hidden[row], (int(pending[row]), *path))[level]
                every |= {(*path, token): score + value for token, value in enumerate(step.tolist())}
            kept = dict(sorted(every.items(), key=lambda item: -item[1])[:width])
            assert found == pytest.approx(kept, abs=1e-4)
            assert list(found.values()) == sorted(found.values(), reverse=True)


@torch.inference_mode()
def test_a_fixed_tree_follows_ranks(heads: DraftHeads) -> None:
    backbone = forking_backbone(dtype=torch.float32)
    hidden, pending = torch.randn(ROWS, 32), torch.tensor([5, 9, 9, 30])
    choices = [(0,), (1,), (0, 0), (0, 2), (1, 1), (0, 2, 3)]
    shape = FixedTree(choices, VOCABULARY).shape(1, None)
    token_ids, parents, log_probs = drafter_of(heads, backbone).propose(PendingTokens(pending, hidden), shape)
    for row in range(ROWS):
        wanted: list[dict[Path, float]] = [{}, {}, {}]
        tokens: dict[Path, Path] = {(): ()}
        scores: dict[Path, float] = {(): 0.0}
        for choice in choices:
            above = choice[:-1]
            step = log_probs_along(heads, backbone, hidden[row], (int(pending[row]), *tokens[above]))[len(above)]
            token = int(step.argsort(descending=True)[choice[-1]])
            tokens[choice], scores[choice] = (*tokens[above], token), scores[above] + float(step[token])
            wanted[len(above)][tokens[choice]] = scores[choice]
        found = paths_of(token_ids[row], parents[row], log_probs[row])
        assert len(found) == len(wanted)
        for ours, theirs in zip(found, wanted, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-4)


@torch.inference_mode()
def test_a_fixed_tree_that_is_deeper_than_the_heads_ends_with_them(heads: DraftHeads) -> None:
    """And one that is narrower than other trees of the drafter is padded, so that a step can carry both."""
    backbone = forking_backbone(dtype=torch.float32)
    shape = FixedTree([(0,) * depth for depth in range(1, 6)], VOCABULARY).shape(1, None)
    drafter = drafter_of(heads, backbone)
    token_ids, _, log_probs = drafter.propose(PendingTokens(torch.tensor([5]), torch.randn(1, 32)), shape)
    assert token_ids.shape == (1, HEADS, drafter.width)
    assert (log_probs > -torch.inf).tolist() == [[[True] + [False] * (drafter.width - 1)] * HEADS]


@pytest.mark.parametrize("num_heads", [1, 20])
@torch.inference_mode()
def test_a_step_can_carry_trees_and_single_paths_of_any_number_of_heads(num_heads: int) -> None:
    backbone = forking_backbone(dtype=torch.float32)
    drafter = drafter_of(random_sequential_heads(backbone, num_heads=num_heads), backbone)
    hidden, pending = torch.randn(2, 32), torch.tensor([5, 9])
    trees, paths = (
        drafter.propose(PendingTokens(pending, hidden), Beam(num_heads, width)) for width in (drafter.width, 1)
    )
    for ours, theirs in zip(trees, paths, strict=True):
        assert ours.shape == theirs.shape == (2, num_heads, drafter.width)
    assert torch.equal(trees[0][:, 0, 0], paths[0][:, 0, 0])


@torch.inference_mode()
def test_the_likeliest_paths_of_a_few_levels_are_those_of_the_first_levels(heads: DraftHeads) -> None:
    backbone = forking_backbone(dtype=torch.float32)
    drafter = drafter_of(heads, backbone)
    assert drafter.beams == (Beam(3, drafter.width), Beam(3, 1), Beam(1, drafter.width), Beam(1, 1))
    hidden, pending = torch.randn(ROWS, 32), torch.tensor([5, 9, 9, 30])
    for width in (drafter.width, 1):
        deep, shallow = (drafter.propose(PendingTokens(pending, hidden), Beam(levels, width)) for levels in (3, 1))
        for ours, theirs in zip(shallow, deep, strict=True):
            assert torch.equal(ours, theirs[:, :1])


@torch.inference_mode()
def test_a_beam_of_width_one_takes_the_best_draft_of_every_level(heads: DraftHeads) -> None:
    backbone = forking_backbone(dtype=torch.float32)
    hidden, pending = torch.randn(ROWS, 32), torch.tensor([5, 9, 9, 30])
    found = drafter_of(heads, backbone).propose(PendingTokens(pending, hidden), Beam(3, 1))
    for row in range(ROWS):
        path: Path = ()
        for level in range(3):
            step = log_probs_along(heads, backbone, hidden[row], (int(pending[row]), *path))[level]
            path = (*path, int(step.argmax()))
        assert tuple(found[0][row, :, 0].tolist()) == path
        assert (found[2][row] > -torch.inf).sum() == 3


@torch.inference_mode()
def test_parallel_draft_tokens_are_likelier_than_all_others() -> None:
    """What a head drafts does not depend on the path, so the best of all products are found."""
    backbone = forking_backbone(dtype=torch.float32)
    heads, hidden = random_heads(backbone, num_heads=2), torch.randn(1, 32)
    drafter = drafter_of(heads, backbone)
    token_ids, parents, log_probs = drafter.propose(PendingTokens(torch.tensor([5]), hidden), drafter.beams[0])
    steps = log_probs_along(heads, backbone, hidden[0], ()) if not isinstance(heads, SequentialHeads) else None
    assert steps is not None
    every = sorted((float(a + b) for a, b in product(steps[0], steps[1])), reverse=True)
    assert log_probs[0, 1].tolist() == pytest.approx(every[: token_ids.shape[2]], abs=1e-4)
    assert parents[0, 1].max() < token_ids.shape[2]
