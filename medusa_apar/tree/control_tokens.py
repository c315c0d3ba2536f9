"""The control tokens `[Fork]` and `[Child]`: their ids, and the rules under which they may be chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor, PretrainedConfig, PreTrainedTokenizerBase

FORK = "[Fork]"
CHILD = "[Child]"

_NAMES = ((FORK, CHILD), ("[SplitMask]", "[SplitSop]"))
"""Our names, then those of THUDM's published APAR checkpoints."""


@dataclass(frozen=True, slots=True)
class ControlTokens:
    """`[Fork]`, written by the model, and `[Child]`, injected right after it on the child's path.

    Attributes:
        fork_token_id, child_token_id: their ids.
        fork_bias: what is added to the logit of `[Fork]` where a thread may fork: above 0 more forks, below 0 fewer.
    """

    fork_token_id: int
    child_token_id: int
    fork_bias: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.fork_bias):
            raise ValueError(f"fork_bias={self.fork_bias} is not finite; pass a number, or apar=False for no forks")

    @staticmethod
    def of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> ControlTokens:
        """Look the control tokens up in a tokenizer.

        Raises:
            ValueError: if the tokenizer has none.
        """
        vocabulary = tokenizer.get_vocab()
        for fork, child in _NAMES:
            if fork in vocabulary and child in vocabulary:
                return ControlTokens(vocabulary[fork], vocabulary[child])
        raise ValueError(
            f"tokenizer {tokenizer.name_or_path!r} has no control tokens {FORK!r} and {CHILD!r}; "
            "train an APAR backbone with `medusa-apar train backbone`, which adds them, or use its tokenizer"
        )

    @staticmethod
    def of_config(config: PretrainedConfig) -> ControlTokens | None:
        """Control tokens recorded in a backbone's config, if any."""
        fork, child = getattr(config, "fork_token_id", None), getattr(config, "child_token_id", None)
        return None if fork is None or child is None else ControlTokens(fork, child, recorded_fork_bias(config))

    def check_fits(self, vocab_size: int) -> None:
        """Raise a ValueError unless these are two tokens of a vocabulary of this size."""
        for name, token in (("fork_token_id", self.fork_token_id), ("child_token_id", self.child_token_id)):
            if not 0 <= token < vocab_size:
                raise ValueError(
                    f"{name}={token} is none of the backbone's {vocab_size} tokens; enlarge it by "
                    "backbone.resize_token_embeddings(len(tokenizer)), or name a token that it has"
                )
        if self.fork_token_id == self.child_token_id:
            raise ValueError(f"fork_token_id and child_token_id are both {self.fork_token_id}; give two tokens")

    def record_in(self, config: PretrainedConfig) -> None:
        """Write the ids where `of_config` finds them."""
        config.fork_token_id = self.fork_token_id
        config.child_token_id = self.child_token_id


def thread_depth(config: PretrainedConfig) -> int:
    """Depth of the deepest threads that a backbone has been trained on, as its config records it; the paper's is 2."""
    depth: int = getattr(config, "thread_depth", 2)
    return depth


def recorded_fork_bias(config: PretrainedConfig) -> float:
    """What a backbone's config adds to the logit of `[Fork]`; training records it."""
    bias: float = getattr(config, "fork_bias", 0.0)
    return bias


class ControlTokenRules(LogitsProcessor):
    """Which control tokens a thread may choose, and how readily.

    `[Child]` is never chosen; `[Fork]` is not chosen right after `[Fork]`, nor where forking is off:
    in a thread at `max_depth`, or with `apar=False`. Elsewhere its score is raised by `fork_bias`.

    Args:
        control: the tokens.
        fork_allowed: whether the thread may fork at all; for rows of several threads `[rows]` boolean.
    """

    def __init__(self, control: ControlTokens, *, fork_allowed: bool | Tensor) -> None:
        self.control = control
        self.fork_allowed = fork_allowed

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Change `scores` `[rows, vocabulary]` given contexts `input_ids` `[rows, length]`."""
        scores = scores.clone()
        scores[:, self.control.child_token_id] = -torch.inf
        after_fork = input_ids[:, -1] == self.control.fork_token_id
        forbidden = after_fork | ~torch.as_tensor(self.fork_allowed, device=scores.device)
        fork = self.control.fork_token_id
        scores[:, fork] = (scores[:, fork] + self.control.fork_bias).masked_fill(forbidden, -torch.inf)
        return scores
