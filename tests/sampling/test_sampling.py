"""Sampling: the backbone's own distribution, the same answer whatever the schedule."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessorList, PreTrainedModel

from medusa_apar import ControlTokenRules, MedusaAparModel, MedusaAparOutput
from medusa_apar.drafting.draft_tree import ancestors
from medusa_apar.sampling.randomness import child_key, child_keys, root_key, uniform
from medusa_apar.sampling.sampler import inverse_cdf
from medusa_apar.sampling.verification import NodeTensors, longest_path

from ..conftest import CONTROL, forking_backbone, random_heads
from ..engine.test_lossless import MAX_DEPTH, SCHEDULES, batch, decode

SAMPLING: dict[str, dict[str, Any]] = {
    "plain": {"top_k": 0},
    "temperature": {"temperature": 1.8, "top_k": 0},
    "top_k": {"top_k": 4},
    "top_p": {"top_p": 0.8, "top_k": 0},
    "min_p": {"min_p": 0.15, "top_k": 0},
    "typical_p": {"typical_p": 0.7, "top_k": 0},
    "repetition_penalty": {"repetition_penalty": 2.0, "top_k": 0},
    "temperature and top_p and suppress_tokens": {"temperature": 1.4, "top_p": 0.9, "suppress_tokens": [5, 6]},
}


@pytest.fixture(scope="module")
def tiny() -> PreTrainedModel:
    """A backbone of nine tokens, without control tokens: every answer of three tokens can be counted."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=9, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, initializer_range=0.4, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()  # type: ignore[no-any-return]


def exact_distribution(backbone: PreTrainedModel, prompt: list[int], length: int, sampling: dict[str, Any]) -> Tensor:
    """Probability of every answer of `length` tokens, `[vocabulary ** length]`, from the processed logits."""
    vocabulary = backbone.config.vocab_size
    answers = torch.tensor(list(product(range(vocabulary), repeat=length)))
    ids = torch.cat([torch.tensor(prompt).expand(len(answers), -1), answers], dim=1)
    processors = processors_of(backbone, len(prompt), sampling)
    probability = torch.ones(len(answers), dtype=torch.float64)
    with torch.no_grad():
        for at in range(length):
            context = ids[:, : len(prompt) + at]
            scores = processors(context, backbone(context).logits[:, -1].float())
            probability *= scores.softmax(-1, dtype=torch.float64)[torch.arange(len(ids)), answers[:, at]]
    return probability


def processors_of(backbone: Any, prompt_length: int, sampling: dict[str, Any]) -> LogitsProcessorList:
    """What `generate` builds for sampling."""
    config, _ = backbone._prepare_generation_config(None, do_sample=True, **sampling)
    backbone._prepare_special_tokens(config, True, device=backbone.device)
    processors: LogitsProcessorList = backbone._get_logits_processor(
        config, input_ids_seq_length=prompt_length, logits_processor=LogitsProcessorList(), device=backbone.device
    )
    return processors


@pytest.mark.parametrize("sampling", SAMPLING.values(), ids=list(SAMPLING))
def test_answers_follow_the_backbones_distribution(tiny: PreTrainedModel, sampling: dict[str, Any]) -> None:
    """A chi-squared test over all answers of three tokens."""
    prompt, rows, batch_size, length = [3, 7, 5], 2000, 250, 3
    model = MedusaAparModel(tiny, random_heads(tiny))
    seen: Counter[tuple[int, ...]] = Counter()
    accepted = 0
    for seed in range(rows // batch_size):
        output: Any = model.generate(
            torch.tensor([prompt]), do_sample=True, num_return_sequences=batch_size, max_new_tokens=length, seed=seed,
            nodes_per_step=3 * batch_size, return_dict_in_generate=True, **sampling,
        )  # fmt: skip
        seen.update(tuple(answer) for answer in output.sequences[:, len(prompt) :].tolist())
        accepted += output.stats.accepted_draft_tokens
    assert accepted > rows / 20, "draft tokens should take part"
    expected = rows * exact_distribution(tiny, prompt, length, sampling).numpy()
    observed = np.array([seen[answer] for answer in product(range(9), repeat=length)])
    assert observed[expected == 0].sum() == 0, "an impossible answer was drawn"
    often = expected >= 5
    rest = expected[~often].sum()
    pooled = [
        np.append(counts[often], counts[~often].sum()) if rest else counts[often] for counts in (observed, expected)
    ]
    assert chisquare(*pooled).pvalue > 1e-3


@pytest.mark.parametrize("sampling", [{}, {"repetition_penalty": 1.4, "top_p": 0.95}], ids=["fast path", "contexts"])
def test_the_same_seed_gives_the_same_answer_whatever_the_schedule(sampling: dict[str, Any]) -> None:
    backbone = forking_backbone(seed=3)
    model = MedusaAparModel(backbone, random_heads(backbone))
    _, ids, mask = batch(3)
    options = {"do_sample": True, "seed": 5, **sampling}
    schedules = [*SCHEDULES.values(), {"nodes_per_step": 24, "max_slots": 120}]
    outputs = [decode(model, ids, mask, **options, **schedule) for schedule in schedules]
    assert sum(len(tree.threads) for tree in outputs[0].trees or ()) > 3, "the threads should fork"
    for other in outputs[1:]:
        assert torch.equal(outputs[0].sequences, other.sequences)
    assert not torch.equal(outputs[0].sequences, decode(model, ids, mask, **{**options, "seed": 6}).sequences)


def test_batch_neighbours_do_not_change_a_sample() -> None:
    backbone = forking_backbone(seed=0)
    model = MedusaAparModel(backbone, random_heads(backbone))
    prompts, ids, mask = batch()
    together = decode(model, ids, mask, do_sample=True, seed=2)
    for prompt, tree in zip(prompts, together.trees or (), strict=True):
        alone = decode(model, torch.tensor([prompt]), do_sample=True, seed=2)
        assert alone.trees is not None
        assert alone.trees[0].answer_token_ids() == tree.answer_token_ids()


def test_equal_prompts_draw_apart() -> None:
    model = MedusaAparModel(forking_backbone(seed=0))
    _, ids, _ = batch(lengths=(5,))
    rows = model.generate(ids, do_sample=True, num_return_sequences=4, max_new_tokens=12, seed=0)
    assert len({tuple(row) for row in rows.tolist()}) == 4  # type: ignore[union-attr]


def test_without_a_seed_torchs_generator_decides() -> None:
    model = MedusaAparModel(forking_backbone(seed=0))
    _, ids, _ = batch(lengths=(5,))

    def sample(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        return model.generate(ids, do_sample=True, max_new_tokens=12).tolist()  # type: ignore[union-attr]

    assert sample(1) == sample(1) != sample(2)


@pytest.mark.parametrize(
    ("seed", "sampling"), [(7, {}), (3, {"repetition_penalty": 1.5, "temperature": 1.3})], ids=["plain", "penalty"]
)
def test_every_sampled_token_is_the_one_of_its_number(seed: int, sampling: dict[str, Any]) -> None:
    """Every thread, read linearly through the plain backbone, gives the token at its own uniform number."""
    backbone = forking_backbone(seed=3)
    _, ids, _ = batch(3, lengths=(6,))
    output: MedusaAparOutput = decode(
        MedusaAparModel(backbone, random_heads(backbone)), ids, do_sample=True, seed=seed, top_k=0, **sampling
    )
    assert output.trees is not None
    threads = output.trees[0].threads
    assert len(threads) > 1
    keys = [root_key(seed, ids[0].tolist(), 0)]
    for thread in threads[1:]:
        assert thread.parent is not None
        before = [t for t in threads if t.parent == thread.parent and t.own_start < thread.own_start]
        keys.append(child_key(keys[thread.parent], len(before)))
    processors = processors_of(backbone, ids.shape[1], {"top_k": 0, **sampling})
    for key, thread in zip(keys, threads, strict=True):
        rules = ControlTokenRules(CONTROL, fork_allowed=thread.depth < MAX_DEPTH)
        with torch.no_grad():
            logits = backbone(torch.tensor([thread.token_ids])).logits[0].float()
        start = thread.own_start + (thread.parent is not None)
        for at in range(start, len(thread.token_ids)):
            context = torch.tensor([thread.token_ids[:at]])
            visible = context[(context != CONTROL.fork_token_id) & (context != CONTROL.child_token_id)][None]
            scores = rules(context, logits[at - 1 : at])
            for processor in processors:
                scores = processor(visible, scores)
            number = uniform(np.array([key], dtype=np.uint64), np.array([at]))
            assert int(inverse_cdf(scores.softmax(-1, torch.float64), torch.from_numpy(number))) == thread.token_ids[at]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(0, 1, exclude_max=True))
def test_a_token_without_probability_is_never_drawn(weights: list[float], number: float) -> None:
    total = sum(weights)
    if total < 1e-6:
        return
    probabilities = torch.tensor([weights], dtype=torch.float64) / total
    token = int(inverse_cdf(probabilities, torch.tensor([number], dtype=torch.float64)))
    assert probabilities[0, token] > 0


def test_numbers_are_uniform_and_belong_to_their_places() -> None:
    keys = child_keys(np.array([root_key(0, [1, 2], 0)] * 500, dtype=np.uint64), np.arange(500))
    numbers = np.concatenate([uniform(keys, np.full(500, position)) for position in range(40)])
    assert chisquare(np.histogram(numbers, bins=50, range=(0, 1))[0]).pvalue > 1e-3
    assert len(np.unique(numbers)) == len(numbers)
    assert np.abs(np.corrcoef(numbers.reshape(40, 500)) - np.eye(40)).max() < 0.2


def test_typical_acceptance_takes_likely_draft_tokens_though_the_backbone_would_choose_others() -> None:
    backbone = forking_backbone(seed=0)
    model = MedusaAparModel(backbone, random_heads(backbone))
    _, ids, mask = batch()
    options: dict[str, Any] = {"do_sample": True, "acceptance": "typical", "nodes_per_step": 24}
    eager = decode(model, ids, mask, posterior_threshold=0.0, posterior_alpha=0.0, **options).stats
    usual = decode(model, ids, mask, **options).stats
    exact = decode(model, ids, mask, nodes_per_step=24).stats
    assert eager is not None
    assert usual is not None
    assert exact is not None
    assert eager.tokens_per_step > usual.tokens_per_step > exact.tokens_per_step


def test_typical_acceptance_keeps_one_path_of_each_thread() -> None:
    """Two trees: the longest path is accepted, the earlier of two equals, with its eager children."""
    parent = torch.tensor([-1, -1, 0, 0, 1, 1, 2, 3, 5, 6])
    eager = torch.tensor([False] * 9 + [True])
    above = torch.from_numpy(ancestors(parent.numpy()))
    nodes = NodeTensors(torch.arange(10), parent, eager, above)
    accepted = nodes.accepted(torch.tensor([True] * 4 + [True, False] + [True] * 4))
    assert longest_path(nodes, accepted).nonzero().flatten().tolist() == [0, 1, 2, 4, 6, 9]
