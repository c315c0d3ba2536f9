"""Tokens of a piece of text, such that the tokens of all pieces, one after the other, are the whole text."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from .command import InputError

_BEFORE = "\n"
"""What a piece stands behind while it is tokenized; no tokenizer that adds spaces joins it to what follows."""


def piece_tokenizer(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[int]]:
    """What tokenizes a piece that goes on from another one.

    The SentencePiece tokenizers of Llama 2, Mistral and Phi-3 put a space before all that they are given. Behind
    another piece that would be a space which the text does not have.
    """

    def tokens(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return ids

    if tokenizer.decode(tokens("a") * 2) == "aa":
        return tokens
    before = tokens(_BEFORE)

    def behind(text: str) -> list[int]:
        ids = tokens(_BEFORE + text)
        if ids[: len(before)] != before:
            raise InputError(
                f"the tokenizer of {tokenizer.name_or_path} puts a space before every text and joins line breaks to "
                "what follows, so that an answer cannot be put together from pieces; use the model's fast tokenizer"
            )
        return ids[len(before) :]

    return behind
