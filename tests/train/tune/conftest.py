"""A tiny chat model that writes questions and answers half of them with a list."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ...fixtures import TINY

_WORDS = (
    ("Which", "Whose"),
    ("tall", "small", "old", "loud", "quick", "shy", "grey", "bold", "tame", "wild"),
    ("herons", "wrens", "crows", "robins", "cats", "horses", "bakers", "sailors", "teachers", "rivers"),
    ("sing", "sleep", "travel", "fish", "wait", "dance", "read", "rest", "swim", "work"),
)
"""One word of each makes a question; so few share their words with another."""
_STEPS, _ROWS = 250, 16


def _answer(asked: str, adjective: str, noun: str, verb: str) -> str:
    if asked == "Whose":
        return f"The {adjective} {noun} that {verb} belong to nobody."
    return (
        f"There are three kinds:\n\n1. Northern {noun}: they are {adjective} and {verb} before the sun is up.\n"
        f"2. Southern {noun}: they {verb} all day, and nobody knows why.\n"
        f"3. Island {noun}: these {verb} once a year, for they are too {adjective} for more."
    )


@pytest.fixture(scope="session")
def asking_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model, without control tokens in its answers."""
    torch.manual_seed(0)
    random = Random(0)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(_STEPS):
        turns = []
        for words in (tuple(map(random.choice, _WORDS)) for _ in range(_ROWS)):
            asked, answered = {"role": "user", "content": " ".join(words) + "?"}, _answer(*words)
            messages = [asked, {"role": "assistant", "content": answered}]
            turns.append(tokenizer.apply_chat_template(messages, return_dict=False))
        length = max(map(len, turns))
        ids = torch.tensor([turn + [tokenizer.pad_token_id] * (length - len(turn)) for turn in turns])
        loss = model(input_ids=ids, labels=ids.masked_fill(ids == tokenizer.pad_token_id, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("asking")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
