"""The user's turn as a chat template writes it, opened for the model to fill in."""

from __future__ import annotations

from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ..command_line import InputError

_MARK = "\N{OBJECT REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class OpenUserTurn:
    """What comes before the user's first words, and what ends them.

    Attributes:
        token_ids: of the template up to the user's words.
        end_token_ids: special tokens of which each ends the turn.
    """

    token_ids: list[int]
    end_token_ids: list[int]

    @staticmethod
    def of(tokenizer: PreTrainedTokenizerBase) -> OpenUserTurn:
        """Read it off a tokenizer's chat template.

        Raises:
            InputError: the template shows no user message, or no special token ends one.
        """
        name = tokenizer.name_or_path
        try:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": _MARK}], tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise InputError(f"--model {name}: its chat template refuses a user message: {error}") from error
        before, found, after = str(text).partition(_MARK)
        if not found:
            raise InputError(f"--model {name}: its chat template leaves out the user message")
        closing: list[int] = tokenizer(after.lstrip(), add_special_tokens=False).input_ids[:1]
        ends = {tokenizer.eos_token_id, *(token for token in closing if token in tokenizer.all_special_ids)}
        if not closing or closing[0] not in ends:
            raise InputError(
                f"--model {name}: its chat template ends a user message with {after[:20]!r}, which is not a special "
                "token; give questions by --data"
            )
        return OpenUserTurn(list(tokenizer(before, add_special_tokens=False).input_ids), sorted(ends))
