"""Conversations as a model's prompts, and whether they leave room for an answer."""

from __future__ import annotations

from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from medusa_apar.model import MedusaAparModel

from .question_sets import Question


class ChatPrompts:
    """Puts a tokenizer's chat template around messages.

    Args:
        model: who answers.
        tokenizer: its tokenizer, with a chat template.
        max_new_tokens: room that every prompt has to leave in the model's context.

    Raises:
        ValueError: if there is no chat template, or no room for any prompt.
    """

    def __init__(self, model: MedusaAparModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> None:
        if not tokenizer.chat_template:
            raise ValueError(
                f"tokenizer {tokenizer.name_or_path!r} has no chat template; "
                "put a chat_template.jinja file into its folder"
            )
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.context = _context_length(model)
        if self.context is not None and max_new_tokens >= self.context:
            raise ValueError(
                f"max_new_tokens={max_new_tokens} leaves no room for a prompt "
                f"in the model's context of {self.context} tokens; lower --max-new-tokens"
            )

    def tokenize(self, messages: list[dict[str, str]]) -> Tensor:
        """The prompt `[1, length]` after which the assistant speaks."""
        encoding = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        assert isinstance(encoding, BatchEncoding)
        input_ids: Tensor = encoding["input_ids"]
        return input_ids

    def first_turn(self, question: Question) -> Tensor:
        """The prompt `[1, length]` of a question's first turn.

        Raises:
            ValueError: if it leaves too little room.
        """
        prompt = self.tokenize([{"role": "user", "content": question.turns[0]}])
        reason = self.too_long(prompt)
        if reason is not None:
            raise ValueError(f"question_id={question.question_id!r}: {reason}; take it out, or lower --max-new-tokens")
        return prompt

    def too_long(self, prompt: Tensor) -> str | None:
        """Why a prompt `[1, length]` leaves too little room; None if it leaves enough."""
        room = None if self.context is None else self.context - self.max_new_tokens
        if room is None or prompt.shape[1] <= room:
            return None
        return (
            f"the prompt has {prompt.shape[1]} tokens, more than the {room} that the context of {self.context} leaves "
            f"beside max_new_tokens={self.max_new_tokens}"
        )


def _context_length(model: MedusaAparModel) -> int | None:
    length = getattr(model.backbone.config.get_text_config(), "max_position_embeddings", None)
    return None if length is None else int(length)
