"""What serving has to know of a model, without its weights."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from sys import maxsize
from typing import Any

from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from medusa_apar.adapter import ADAPTED_CONFIG, adapted_config, is_adapter
from medusa_apar.checkpoint import load_tokenizer, local_source
from medusa_apar.runner.model_runner import context_length
from medusa_apar.tree.control_tokens import ControlTokens, thread_depth

from .requests import Sampling

logger = logging.getLogger(__name__)

TOP_K = 50
"""Where a generation config samples and does not say, as in `generate`."""
NOT_SERVED: dict[str, tuple[Any, ...]] = {
    "typical_p": (None, 1.0),
    "top_h": (None,),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
    "no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1.0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None, []),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "sequence_bias": (None, {}),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "exponential_decay_length_penalty": (None,),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "stop_strings": (None, []),
    "guidance_scale": (None, 1.0),
    "watermarking_config": (None,),
}
"""What `generate` heeds of a generation config and a server does not, with the values that ask for nothing."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as its clients see it.

    Attributes:
        name: under which it is served.
        tokenizer: its tokenizer.
        vocab_size: ids that it may read and write.
        control: its control tokens; None where it has none and so does not fork.
        eos_token_ids: tokens that end a thread.
        context_length: tokens of the longest path.
        max_depth: depth of the deepest threads that it was trained on.
        sampling: how it draws tokens where a request says nothing: as its `generation_config.json` has it.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    vocab_size: int
    control: ControlTokens | None
    eos_token_ids: tuple[int, ...]
    context_length: int
    max_depth: int
    sampling: Sampling

    @staticmethod
    def from_pretrained(source: str | Path, name: str | None = None, max_length: int | None = None) -> ServedModel:
        """Read config, generation config and tokenizer of a folder or hub id.

        Args:
            source: the folder or hub id.
            name: under which it is served; by default the source.
            max_length: tokens of the longest path, where an engine takes less than the model.

        Raises:
            OSError: if they cannot be found.
            ValueError: if it is an adapter that says nothing of its backbone, names no token that ends an answer, or
                control tokens that it has not.
        """
        local = local_source(str(source))
        tokenizer = load_tokenizer(local)
        config: Any = adapted_config(local) if is_adapter(local) else AutoConfig.from_pretrained(local)
        if config is None:
            raise ValueError(
                f"{str(source)!r} is an adapter without {ADAPTED_CONFIG}; serve the merged model: "
                "MedusaAparModel.from_pretrained(...).save_pretrained(...) makes one"
            )
        generation = _generation_config(local)
        control = ControlTokens.of_config(config)
        if control is None:
            try:
                control = ControlTokens.of_tokenizer(tokenizer)
            except ValueError:
                control = None
        vocab_size = config.get_text_config().vocab_size
        if control is not None:
            control.check_fits(vocab_size)
        ends: Any = generation.eos_token_id if generation.eos_token_id is not None else config.eos_token_id
        if ends is None:
            raise ValueError(f"{str(source)!r} names no eos_token_id; record it in its generation_config.json")
        return ServedModel(
            name=name or str(source),
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            control=control,
            eos_token_ids=tuple(ends) if isinstance(ends, list) else (int(ends),),
            context_length=min(context_length(config), max_length or maxsize),
            max_depth=1 if control is None else thread_depth(config),
            sampling=_sampling(generation),
        )

    def control_of(self, sampling: Sampling) -> ControlTokens | None:
        """The control tokens, under the bias of `[Fork]` that a request asks for; None where the model has none."""
        if self.control is None or sampling.fork_bias is None:
            return self.control
        return replace(self.control, fork_bias=sampling.fork_bias)

    def knows(self, token: object) -> bool:
        """Whether something is one of the model's token ids."""
        return isinstance(token, int) and 0 <= token < self.vocab_size

    def text(self, token_ids: list[int]) -> str:
        """What tokens say, without special tokens."""
        text: Any = self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)


def _generation_config(source: str) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(source)
    except OSError:
        return GenerationConfig()


def _sampling(config: GenerationConfig) -> Sampling:
    """Greedy unless the file says `do_sample`; what it leaves out is as `generate` has it."""
    for name, neutral in NOT_SERVED.items():
        if (value := getattr(config, name, None)) not in neutral:
            logger.warning("generation_config.json: %s=%r is not served", name, value)
    penalty = float(config.repetition_penalty or 1.0)
    if not config.do_sample:
        return Sampling(repetition_penalty=penalty)
    return Sampling(
        temperature=1.0 if config.temperature is None else float(config.temperature),
        top_p=1.0 if config.top_p is None else float(config.top_p),
        top_k=TOP_K if config.top_k is None else config.top_k,
        min_p=float(config.min_p or 0.0),
        repetition_penalty=penalty,
    )
