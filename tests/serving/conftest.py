"""A tiny forking model as it is served, and an engine that writes its threads one by one."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from medusa_apar import MedusaAparModel
from medusa_apar.serving.requests import Sampling
from medusa_apar.serving.served_model import ServedModel

from ..conftest import CONTROL, EOS, VOCABULARY, forking_backbone, random_heads

CONTEXT = 256


def tokenizer_of_letters() -> PreTrainedTokenizerFast:
    """Every token is a word of its own, which ends with a space."""
    names = {0: "<pad>", EOS: "<eos>", CONTROL.fork_token_id: "[Fork]", CONTROL.child_token_id: "[Child]"}
    words = {names.get(token, f"w{token}"): token for token in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Sequence([decoders.Replace("w", " w")])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        additional_special_tokens=["[Fork]", "[Child]"],
        chat_template="{% for message in messages %}{{ message['content'] }} {% endfor %}w5",
    )
    return fast


@pytest.fixture(scope="session")
def backbone() -> PreTrainedModel:
    return forking_backbone()


@pytest.fixture(scope="session")
def model(backbone: PreTrainedModel) -> MedusaAparModel:
    return MedusaAparModel(backbone, random_heads(backbone).to(torch.float64))


@pytest.fixture(scope="session")
def served() -> ServedModel:
    return ServedModel(
        name="tiny",
        tokenizer=tokenizer_of_letters(),
        vocab_size=VOCABULARY,
        control=CONTROL,
        eos_token_ids=(EOS,),
        context_length=CONTEXT,
        max_depth=3,
        sampling=Sampling(),
    )
