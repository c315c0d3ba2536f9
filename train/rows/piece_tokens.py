"""Tokens of a piece of text, such that the tokens of all pieces, one after the other, are the whole text."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from .bad_rows import BadRowError

_ANCHORS = ("\n", "a", ".", "1")
"""Texts that a piece is tokenized after. A tokenizer may join the piece to one of them, seldom to each."""


def piece_tokenizer(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[int]]:
    """What tokenizes a piece that continues another one.

    The SentencePiece tokenizers of Llama 2, Mistral and Phi-3, and byte-level ones with `add_prefix_space`, put a space
    before every text. Where a piece continues another one the text has no such space. So the piece is tokenized
    together with a text before it, whose tokens are then left out.

    Returns:
        A function from text to token ids. It raises a `BadRowError` for a piece that the tokenizer cannot continue
        another one with exactly.
    """

    def tokens(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return ids

    def decoded(token_ids: list[int]) -> str:
        return str(tokenizer.decode(token_ids, clean_up_tokenization_spaces=False))

    if decoded(tokens("a") * 2) == "aa":
        return tokens
    anchors = [(anchor, tokens(anchor)) for anchor in _ANCHORS]

    def continuing(text: str) -> list[int]:
        for anchor, before in anchors:
            ids = tokens(anchor + text)
            if ids[: len(before)] == before and decoded(ids) == decoded(before) + text:
                return ids[len(before) :]
        raise BadRowError(
            "the tokenizer puts a space before every text and joins a piece of the answer to what comes before it"
        )

    return continuing
