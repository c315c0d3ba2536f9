"""The default model: SmolLM2-135M-Instruct with our adapter and heads; it loads, forks, and is lossless."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from medusa_apar import DEFAULT_MODEL, MedusaAparModel, MedusaAparOutput
from medusa_apar.eval.measurement.question_sets import load_questions
from medusa_apar.tree.control_tokens import thread_depth

from .oracle import Oracle

MEGABYTE = 10**6


@pytest.fixture(autouse=True)
def _users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The converted weights are those of the user, so that they are not converted for every run of the tests."""
    monkeypatch.delenv("MEDUSA_APAR_CACHE", raising=False)


@cache
def model() -> MedusaAparModel:
    return MedusaAparModel.from_pretrained(DEFAULT_MODEL, dtype=torch.float32)


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(DEFAULT_MODEL)


@cache
def answers() -> MedusaAparOutput:
    """Answers to four of the bundled list questions, decoded together."""
    chats = [[{"role": "user", "content": question.turns[0]}] for question in load_questions("lists")[:4]]
    inputs = tokenizer().apply_chat_template(
        chats, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True, padding_side="left"
    )
    output = model().generate(
        **inputs, do_sample=False, max_new_tokens=120, nodes_per_step=24, return_dict_in_generate=True
    )
    assert isinstance(output, MedusaAparOutput)
    return output


def test_it_fits_a_repository() -> None:
    files = [file for file in DEFAULT_MODEL.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 30 * MEGABYTE
    assert {"README.md", "LICENSE", "adapter_model.safetensors", "generation_config.json"} <= {f.name for f in files}


@pytest.mark.integration
def test_it_forks_and_drafts() -> None:
    output = answers()
    assert output.trees is not None
    assert sum(len(tree.threads) > 1 for tree in output.trees) >= 2
    assert output.stats is not None
    assert output.stats.accepted_draft_tokens > 100


@pytest.mark.integration
def test_it_loads_without_a_warning_of_its_libraries(recwarn: pytest.WarningsRecorder) -> None:
    MedusaAparModel.from_pretrained(DEFAULT_MODEL, dtype=torch.float32)
    assert not [str(warning.message) for warning in recwarn if issubclass(warning.category, FutureWarning)]


@pytest.mark.integration
def test_it_is_lossless() -> None:
    control = model().control
    assert control is not None
    output = answers()
    oracle = Oracle(model().backbone, control, tokenizer().eos_token_id, thread_depth(model().config))
    for tree in (output.trees or ())[:2]:
        oracle.check(tree)


def test_it_samples_as_its_authors_recommend() -> None:
    config = model().generation_config
    assert (config.do_sample, config.temperature, config.top_p) == (True, 0.2, 0.9)
