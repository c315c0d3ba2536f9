"""The opened turn of the user, read off a chat template."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from medusa_apar.train.command_line import InputError
from medusa_apar.train.own_text.user_turn import OpenUserTurn

from ..conftest import byte_tokenizer

CLOSED = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
WITH_SYSTEM = "<|system|>Be kind.<|end|>" + CLOSED
UNCLOSED = "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}{{ '<|assistant|>' if add_generation_prompt }}"


def templated(template: str) -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer(control_tokens=False)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "before", "ends"),
    [
        (CLOSED, "<|user|>", ["<|end|>"]),
        (WITH_SYSTEM, "<|system|>Be kind.<|end|><|user|>", ["<|end|>"]),
        (UNCLOSED, "<|user|>", ["<|end|>", "<|assistant|>"]),
    ],
)
def test_the_turn_is_open_up_to_the_users_words(template: str, before: str, ends: list[str]) -> None:
    tokenizer = templated(template)
    turn = OpenUserTurn.of(tokenizer)
    assert tokenizer.decode(turn.token_ids) == before
    assert tokenizer.convert_ids_to_tokens(turn.end_token_ids) == ends


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("<|user|>", "leaves out the user message"),
        ("{{ raise_exception('no users') }}", "refuses a user message: no users"),
        ("{{ messages[0].content }}\nAnswer:", "ends a user message with '\\\\nAnswer:', which is not a special token"),
    ],
)
def test_templates_without_such_a_turn_are_refused(template: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        OpenUserTurn.of(templated(template))
