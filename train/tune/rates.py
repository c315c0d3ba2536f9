"""Measures how fast this machine answers and trains with a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from medusa_apar.model import MedusaAparModel

from ..prompt_batch import left_padded
from ..rows.tree_data import template_token_ids

_ROWS, _TOKENS = 32, 32
"""Prompts that are answered together, and tokens of each answer."""
_LORA = 1.15
"""What the matrices of LoRA add to a step."""
_DRAFTING_READS = 2.5
"""Backbone passes that a step of heads takes, mean over epochs: 3.3 in the first, which computes the hidden states that
are kept, and 2 in later ones (SmolLM2-135M, four sequential heads, a draft vocabulary of 8,192)."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens per second.

    Attributes:
        answering: of a batch of answers, all rows together.
        forking: of a LoRA step of the backbone.
        drafting: of a step of heads on the frozen backbone.
    """

    answering: float
    forking: float
    drafting: float

    @staticmethod
    def measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Rates:
        """Time a few passes; the model is of no further use for training.

        Args:
            model: a causal LM, in the dtype of answers and training.
            tokenizer: its own, with a chat template.
            max_length: tokens in a row of training.

        Raises:
            ValueError: the model cannot be decoded in threads.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        backbone: Any = model.to(device)  # type: ignore[arg-type]
        prompts = [template_token_ids(tokenizer, [{"role": "user", "content": "Hello"}])] * _ROWS
        batch: Any = left_padded(prompts, tokenizer, device)
        answering = MedusaAparModel(backbone)
        options: dict[str, Any] = {
            "max_new_tokens": _TOKENS,
            "min_new_tokens": _TOKENS,
            "apar": False,
            "do_sample": True,
            "seed": 0,
        }
        answer_seconds = _second_call(lambda: answering.generate(**batch, **options))

        row = torch.arange(max_length, device=device)[None] % backbone.config.get_text_config().vocab_size

        def read() -> None:
            with torch.no_grad():
                backbone(input_ids=row, labels=row).loss.item()

        def learn() -> None:
            backbone(input_ids=row, labels=row).loss.backward()

        read_seconds = _second_call(read)
        backbone.requires_grad_(False).enable_input_require_grads()
        learn_seconds = _second_call(learn)
        return Rates(
            answering=_ROWS * _TOKENS / answer_seconds,
            forking=max_length / (_LORA * learn_seconds),
            drafting=max_length / (_DRAFTING_READS * read_seconds),
        )


def _second_call(work: Callable[[], object]) -> float:
    """Seconds of a second call; the first one warms up."""
    work()
    start = perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter() - start
