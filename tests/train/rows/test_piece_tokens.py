"""Rows of pieces are the text of the answer, whatever a tokenizer does at the beginning of a text."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from medusa_apar.train.rows.bad_rows import BadRowError
from medusa_apar.train.rows.piece_tokens import piece_tokenizer
from medusa_apar.train.rows.responses import Response
from medusa_apar.train.rows.tree_data import TreeDataset
from medusa_apar.tree.control_tokens import CHILD, FORK, ControlTokens

from ...fixtures.tiny_recipe import CHAT_TEMPLATE

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
    assert in_reading_order(dataset, tokenizer) == answer


def like_gpt_2(*merges: str, splits: bool = True) -> PreTrainedTokenizerFast:
    """Bytes, and a space before every text; words and line breaks apart only if it `splits`."""
    letters = {" ": "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}", "\n": "\N{LATIN CAPITAL LETTER C WITH DOT ABOVE}"}
    pairs = [tuple(letters.get(letter, letter) for letter in merge) for merge in merges]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: at for at, token in enumerate([*SPECIAL, *alphabet, *map("".join, pairs)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=splits)
    tokenizer.decoder = decoders.ByteLevel()
    return _finished(tokenizer)


def in_reading_order(dataset: TreeDataset, tokenizer: PreTrainedTokenizerFast) -> str:
    row, control = dataset[0], ControlTokens.of_tokenizer(tokenizer)
    hidden = {control.fork_token_id, control.child_token_id, tokenizer.eos_token_id}
    tokens = zip(row.input_ids, row.prompt, strict=True)
    return tokenizer.decode([token for token, of_prompt in tokens if not (of_prompt or token in hidden)])


@pytest.mark.parametrize("answer", [LISTED, NESTED, CHINESE])
@pytest.mark.parametrize("merges", [(), ("\n\n",), (" \n", "\n\n"), (" a", " .", ".\n", "\n1"), (" \n", "\n\n", " 1")])
def test_so_is_one_of_a_byte_level_tokenizer_that_adds_a_space(merges: tuple[str, ...], answer: str) -> None:
    tokenizer = like_gpt_2(*merges)
    dataset = TreeDataset([Response("Well?", answer)], tokenizer, max_length=2048)
    assert dataset.structured == 1
    assert in_reading_order(dataset, tokenizer).removeprefix(" ") == answer


@pytest.mark.parametrize("text", [" keep", "\n2. Go", "keep", "  two", "\n\nThat", " ", ".", "1", "红色", "a\n"])
def test_a_piece_of_it_gets_no_space(text: str) -> None:
    tokenizer = like_gpt_2(" \n", "\n\n", " a", "..", "11")
    before = tokenizer("Light:", add_special_tokens=False).input_ids
    assert tokenizer.decode(before + piece_tokenizer(tokenizer)(text)) == f" Light:{text}"


def test_a_row_that_the_tokenizer_cannot_put_together_is_counted() -> None:
    tokenizer = like_gpt_2("\n\n", "a\n", ".\n", "1\n", splits=False)
    with pytest.raises(BadRowError, match="puts a space before every text and joins"):
        piece_tokenizer(tokenizer)("\nThat")
    rows = [Response("Well?", LISTED, place="rows.jsonl:1"), Response("Well?", "Fine.", place="rows.jsonl:2")]
    dataset = TreeDataset(rows, tokenizer, max_length=2048)
    assert (dataset.structured, dataset.unstructured) == (0, 1)
    (reason,) = dataset.bad_rows.counts
    assert "puts a space before every text and joins" in reason
    assert dataset.bad_rows.first[reason] == "rows.jsonl:1"
