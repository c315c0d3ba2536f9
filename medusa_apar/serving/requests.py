"""What a client asks for, whatever decodes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; names and meanings are those of `GenerationConfig`.

    Attributes:
        temperature: 0 decodes greedily.
        top_p, top_k, min_p: of nucleus, top-k and min-p sampling; 1.0, 0 and 0.0 leave all tokens.
        repetition_penalty: 1.0 is none.
        presence_penalty: is taken from the score of each token that the answer has; OpenAI's.
        frequency_penalty: likewise, as often as it has it.
        logit_bias: token ids, rising, and what is added to their scores.
        grammar: that the answer follows, as `json_grammar` makes it; empty: none.
        fork_bias: added to the score of `[Fork]` where a thread may fork; None: as the model records it.
        seed: None draws one.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    grammar: str = ""
    fork_bias: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """One answer to write.

    Attributes:
        prompt_token_ids: the prompt, without padding.
        max_new_tokens: visible tokens of the answer in reading order, as `generate` counts them.
        max_depth: threads of this depth do not fork; 1 decodes without threads.
        max_threads: threads that write at the same time; the others wait.
        sampling: how tokens are drawn.
        copy: number of the answer among those to the same request.
        logprobs: how many of the likeliest tokens are wanted beside each token's log-probability; None: neither.
    """

    prompt_token_ids: list[int]
    max_new_tokens: int
    max_depth: int
    max_threads: int = 8
    sampling: Sampling = Sampling()
    copy: int = 0
    logprobs: int | None = None
