"""Rows of pieces are the text of the answer, whatever a tokenizer does at the beginning of a text."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from medusa_apar.control_tokens import CHILD, FORK, ControlTokens
from medusa_apar.train.command import InputError
from medusa_apar.train.piece_tokens import piece_tokenizer
from medusa_apar.train.recipes.embedded import CHAT_TEMPLATE
from medusa_apar.train.responses import Response
from medusa_apar.train.tree_data import TreeDataset

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
SPECIAL = ["<unk>", "<s>", "</s>", FORK, CHILD, "<|user|>", "<|assistant|>"]
LISTED = "Three:\n\n1. Light: keep it  dark.\n2. Rhythm: go to bed early.\n3. Food: eat little.\n\nThat is all."
NESTED = "## Red\n\n- Warm: like fire.\n- Loud: like horns.\n\n## Blue\n\n- Cold: like ice.\n- Calm: like sleep."
CHINESE = "1. 红色：温暖。\n2. 蓝色：寒冷。\n3. 绿色：平静。"


def like_llama_2(*, merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """Bytes and a few words; a space before all that it is given."""
    letters = sorted({*"".join((LISTED, NESTED)).replace(" ", SPACE).replace("\n", "")} | {SPACE})
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(
        models.BPE({token: at for at, token in enumerate(tokens)}, merges, unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _finished(tokenizer)


def _finished(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="</s>",
        additional_special_tokens=SPECIAL[3:],
        chat_template=CHAT_TEMPLATE.replace("<|end|>", "</s>"),
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(scope="module")
def prefixing() -> PreTrainedTokenizerFast:
    return like_llama_2(merges=[(SPACE, "k"), (SPACE, "g"), ("e", "e")])


def test_such_a_tokenizer_adds_a_space_to_every_text(prefixing: PreTrainedTokenizerFast) -> None:
    twice = prefixing("a", add_special_tokens=False).input_ids * 2
    assert prefixing.decode(twice) == "a a"


@pytest.mark.parametrize("text", [" keep", "\n2. Go", "keep", "  two", "\n\nThat", " ", "红色"])
def test_a_piece_behind_another_gets_no_further_space(prefixing: PreTrainedTokenizerFast, text: str) -> None:
    before = prefixing("Light:", add_special_tokens=False).input_ids
    assert prefixing.decode(before + piece_tokenizer(prefixing)(text)) == f"Light:{text}"


@pytest.mark.parametrize("answer", [LISTED, NESTED, CHINESE])
@pytest.mark.parametrize("kind", ["prefixing", "tiny_tokenizer"])
def test_a_row_in_reading_order_is_the_answer(kind: str, answer: str, request: pytest.FixtureRequest) -> None:
    tokenizer: PreTrainedTokenizerFast = request.getfixturevalue(kind)
    dataset = TreeDataset([Response("Well?", answer)], tokenizer, max_length=2048)
    assert dataset.structured == 1
    row, control = dataset[0], ControlTokens.of_tokenizer(tokenizer)
    hidden = {control.fork_token_id, control.child_token_id, tokenizer.eos_token_id}
    text = [
        token
        for token, of_prompt in zip(row.input_ids, row.prompt, strict=True)
        if not of_prompt and token not in hidden
    ]
    assert tokenizer.decode(text) == answer


def test_a_tokenizer_that_cannot_do_it_is_refused() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    newline = "\N{LATIN CAPITAL LETTER C WITH DOT ABOVE}"
    vocabulary = {token: at for at, token in enumerate([*SPECIAL, *alphabet, newline * 2])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [(newline, newline)]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    with pytest.raises(InputError, match="puts a space before every text and joins line breaks"):
        piece_tokenizer(_finished(tokenizer))("\n\nThat")
