"""The control tokens, and the rules under which a thread may choose them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerFast

from medusa_apar.tree.control_tokens import ControlTokenRules, ControlTokens

FORK, CHILD, OTHER = 3, 5, 1
CONTROL = ControlTokens(fork_token_id=FORK, child_token_id=CHILD)


def tokenizer_of(*tokens: str) -> PreTrainedTokenizerFast:
    vocabulary = {token: index for index, token in enumerate(("a", "b", *tokens))}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary)), name_or_path="some/model")


@pytest.mark.parametrize("names", [("[Fork]", "[Child]"), ("[SplitMask]", "[SplitSop]")])
def test_found_under_our_names_and_under_thudms(names: tuple[str, str]) -> None:
    assert ControlTokens.of_tokenizer(tokenizer_of(*names)) == ControlTokens(2, 3)
    assert ControlTokens.of_tokenizer(tokenizer_of(*reversed(names))) == ControlTokens(3, 2)


@pytest.mark.parametrize("names", [(), ("[Fork]",), ("[Child]",), ("[Fork]", "[SplitSop]")])
def test_a_tokenizer_without_a_pair_is_named_with_the_remedy(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"'some/model' has no control tokens.*medusa-apar train backbone"):
        ControlTokens.of_tokenizer(tokenizer_of(*names))


def test_recorded_in_a_config_and_read_back() -> None:
    config = LlamaConfig()
    assert ControlTokens.of_config(config) is None
    CONTROL.record_in(config)
    assert ControlTokens.of_config(LlamaConfig.from_dict(config.to_dict())) == CONTROL


def test_the_bias_of_a_config_is_that_of_its_control_tokens() -> None:
    config = LlamaConfig(fork_token_id=FORK, child_token_id=CHILD, fork_bias=1.5)
    assert ControlTokens.of_config(config) == ControlTokens(FORK, CHILD, fork_bias=1.5)


def forbidden(context: list[int], *, fork_allowed: bool) -> set[int]:
    scores = ControlTokenRules(CONTROL, fork_allowed=fork_allowed)(torch.tensor([context]), torch.zeros(1, 8))
    return set(torch.nonzero(scores[0] == -torch.inf).flatten().tolist())


def test_child_is_never_chosen() -> None:
    for last in (OTHER, FORK, CHILD):
        for fork_allowed in (True, False):
            assert CHILD in forbidden([OTHER, last], fork_allowed=fork_allowed)


def test_fork_is_chosen_where_it_is_allowed_and_does_not_follow_fork() -> None:
    assert forbidden([OTHER], fork_allowed=True) == {CHILD}
    assert forbidden([FORK, OTHER], fork_allowed=True) == {CHILD}
    assert forbidden([FORK, CHILD], fork_allowed=True) == {CHILD}
    assert forbidden([OTHER, FORK], fork_allowed=True) == {CHILD, FORK}


def test_fork_is_not_chosen_where_forking_is_off() -> None:
    assert forbidden([OTHER], fork_allowed=False) == {CHILD, FORK}


def test_a_bias_is_added_where_fork_may_be_chosen() -> None:
    rules = ControlTokenRules(replace(CONTROL, fork_bias=1.5), fork_allowed=torch.tensor([True, True, False]))
    scores = rules(torch.tensor([[OTHER], [FORK], [OTHER]]), torch.zeros(3, 8))
    assert scores[:, FORK].tolist() == [1.5, -torch.inf, -torch.inf]


def test_it_is_a_logits_processor_that_treats_rows_alone_and_leaves_its_input() -> None:
    rules = ControlTokenRules(CONTROL, fork_allowed=True)
    assert isinstance(rules, LogitsProcessor)
    scores = torch.randn(2, 8)
    before = scores.clone()
    after = LogitsProcessorList([rules])(torch.tensor([[OTHER, FORK], [FORK, OTHER]]), scores)
    assert torch.equal(scores, before)
    assert after[0, FORK] == -torch.inf
    untouched = torch.ones(2, 8, dtype=torch.bool)
    untouched[:, CHILD] = False
    untouched[0, FORK] = False
    assert torch.equal(after[untouched], before[untouched])
