"""Answers that follow a grammar, such as JSON of a schema."""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

_STATES = 512
"""Places in answers whose state is kept; further ones are read from the nearest that is."""
_WHITESPACE = r" ?|\n {0,16}"
"""Between the parts of JSON: none, a space, or a new line and its indentation. Small models would write it for ever.

llguidance 1.7, which vLLM 0.32 asks for, lets it repeat.
"""


def json_grammar(schema: dict[str, Any] | None = None) -> str:
    """The grammar of JSON values of a schema; None is any object.

    Raises:
        ValueError: the schema is wrong, or has something that the grammar cannot express.
        ModuleNotFoundError: llguidance is not installed.
    """
    from llguidance import LLMatcher

    grammar = LLMatcher.grammar_from_json_schema(
        {"type": "object"} if schema is None else schema, defaults={"whitespace_pattern": _WHITESPACE}
    )
    if error := LLMatcher.validate_grammar(grammar):
        raise ValueError(error.partition("\n")[0])
    return grammar


class GrammarProcessor(LogitsProcessor):
    """Leaves the tokens with which an answer goes on as a grammar has it.

    It is asked about many draft tokens at once, in any order, and knows the state after each from that of the token
    before. A draft token that the grammar forbids is never accepted, so that what comes after it may be anything.

    Args:
        grammar: as `json_grammar` makes it.
        tokenizer: of the model.
        vocab_size: scores of a token.
        eos_token_ids: tokens that end an answer, where the grammar lets it end.
        prompt_length: tokens before the answer.
    """

    def __init__(
        self,
        grammar: str,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        eos_token_ids: tuple[int, ...],
        prompt_length: int,
    ) -> None:
        from llguidance import LLMatcher

        self._start = LLMatcher(_tokenizer(tokenizer, vocab_size, eos_token_ids), grammar)
        self._vocab_size = vocab_size
        self._prompt_length = prompt_length
        self._states: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        answers = [tuple(ids) for ids in input_ids[:, self._prompt_length :].tolist()]
        allowed = torch.from_numpy(np.stack([self._allowed(answer) for answer in answers]))
        return scores.masked_fill(~allowed.to(scores.device), -torch.inf)

    def _allowed(self, answer: tuple[int, ...]) -> NDArray[np.bool_]:
        state = self._after(answer)
        if state.is_error():
            return np.ones(self._vocab_size, dtype=np.bool_)
        bits = np.frombuffer(state.compute_bitmask(), dtype=np.uint8)
        return np.unpackbits(bits, count=self._vocab_size, bitorder="little").astype(np.bool_)

    def _after(self, answer: tuple[int, ...]) -> Any:
        """The state of the grammar after an answer's tokens."""
        if not answer:
            return self._start
        if answer not in self._states:
            known = next((at for at in range(len(answer) - 1, 0, -1) if answer[:at] in self._states), 0)
            state = (self._states[answer[:known]] if known else self._start).deep_copy()
            state.consume_tokens(list(answer[known:]))
            self._states[answer] = state
            if len(self._states) > _STATES:
                self._states.popitem(last=False)
        self._states.move_to_end(answer)
        return self._states[answer]


@lru_cache(maxsize=4)
def _tokenizer(tokenizer: Any, vocab_size: int, eos_token_ids: tuple[int, ...]) -> Any:
    from llguidance.hf import from_tokenizer

    return from_tokenizer(tokenizer, n_vocab=vocab_size, eos_token=list(eos_token_ids))
