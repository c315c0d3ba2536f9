"""The embedded model: it loads everywhere, forks, and is lossless with its trained heads."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from medusa_apar import EMBEDDED, ControlTokens, MedusaAparModel, MedusaAparOutput
from medusa_apar.eval.backbone import measure_backbone
from medusa_apar.eval.questions import load_questions
from medusa_apar.train.recipes.embedded import hold_out_prompts, narrow_domain, write_training_responses
from medusa_apar.train.rows.responses import BadRows, read_responses
from medusa_apar.train.rows.row_arguments import RowArguments
from medusa_apar.train.tune.repetition import LOOPING_BELOW, distinct_ngrams

from .oracle import Oracle

MEGABYTE = 10**6


@cache
def model() -> MedusaAparModel:
    return MedusaAparModel.from_pretrained(EMBEDDED, dtype=torch.float32)


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(EMBEDDED)


def answer(prompt: str, **options: Any) -> MedusaAparOutput:
    chat = [{"role": "user", "content": prompt}]
    inputs = tokenizer().apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model().generate(**inputs, return_dict_in_generate=True, nodes_per_step=16, **options)
    assert isinstance(output, MedusaAparOutput)
    return output


@cache
def answers() -> list[MedusaAparOutput]:
    """Answers to the 20 list-like prompts, whose wordings are not in the training data."""
    return [answer(question.turns[0], max_new_tokens=512) for question in load_questions("lists")]


def test_it_fits_a_repository() -> None:
    files = [file for file in EMBEDDED.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 40 * MEGABYTE
    assert max(file.stat().st_size for file in files) < 15 * MEGABYTE
    assert (EMBEDDED / "README.md").is_file(), "the model card"


def test_transformers_loads_the_plain_backbone() -> None:
    backbone = AutoModelForCausalLM.from_pretrained(EMBEDDED)
    assert backbone.dtype == torch.bfloat16
    assert ControlTokens.of_config(backbone.config) == ControlTokens.of_tokenizer(tokenizer())


def test_raw_text_goes_straight_into_generate() -> None:
    sequences = model().generate(**tokenizer()("Stress has", return_tensors="pt"), max_new_tokens=8)
    assert isinstance(sequences, torch.Tensor)
    assert sequences.shape[1] <= tokenizer()("Stress has", return_tensors="pt").input_ids.shape[1] + 8


def test_it_forks_and_rarely_loops() -> None:
    trees = [output.trees[0] for output in answers() if output.trees]
    assert sum(len(tree.threads) > 1 for tree in trees) >= 16
    assert sum(distinct_ngrams(tree.answer_token_ids(), 4) < LOOPING_BELOW for tree in trees) <= 2


def test_threads_and_guesses_multiply() -> None:
    stats = [output.stats for output in answers() if output.stats]
    assert sum(s.answer_tokens for s in stats) / sum(s.steps for s in stats) >= 4


@pytest.mark.parametrize("number", range(0, 20, 4))
def test_trained_heads_are_lossless(number: int) -> None:
    control = model().control
    assert control is not None
    oracle = Oracle(model().backbone, control, tokenizer().eos_token_id)
    for tree in answers()[number].trees or ():
        oracle.check(tree)


def test_every_mode_writes_its_own_lossless_answer() -> None:
    prompt = load_questions("lists")[1].turns[0]
    forked = [answer(prompt, max_new_tokens=120, medusa=medusa).sequences for medusa in (True, False)]
    plain = [answer(prompt, max_new_tokens=120, medusa=medusa, apar=False).sequences for medusa in (True, False)]
    assert torch.equal(forked[0], forked[1])
    assert torch.equal(plain[0], plain[1])


@pytest.mark.slow
def test_later_forks_in_its_domain_are_right_and_found(data_folder: Path, tmp_path: Path) -> None:
    """On the responses that the recipe holds out from all stages."""
    responses, _ = hold_out_prompts(read_responses(data_folder / "responses-train.jsonl.xz", BadRows()))
    narrow = narrow_domain(responses, prompts=48, max_characters=1900)
    write_training_responses(tmp_path, [r for r in responses if len(r.response) <= 1900], [], narrow)
    arguments = RowArguments(model=str(EMBEDDED))
    figures = measure_backbone([str(tmp_path / "narrow-heldout.jsonl")], arguments)
    assert figures["later_fork_precision"] >= 0.9
    assert figures["later_fork_recall"] >= 0.8
