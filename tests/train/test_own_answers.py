"""A backbone's own answers as training rows."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from medusa_apar.model import MedusaAparModel
from medusa_apar.train.command_line import InputError
from medusa_apar.train.heads.own_answers import WAYS, own_answers
from medusa_apar.train.rows.responses import Response
from medusa_apar.train.rows.tree_data import (
    IGNORE_INDEX,
    NO_SUCCESSOR,
    TreeRow,
    decoded_row,
    next_token_labels,
    path_mask,
)
from medusa_apar.tree.control_tokens import ControlTokens
from medusa_apar.tree.paragraph_tree import ParagraphTree

from .conftest import tiny_llama

PROMPTS = [f"Name {n} colours" for n in range(7)]


@pytest.fixture(scope="module")
def model(tiny_tokenizer: PreTrainedTokenizerFast) -> MedusaAparModel:
    """A random backbone that forks often."""
    torch.manual_seed(0)
    backbone = tiny_llama(tiny_tokenizer).eval()
    control = ControlTokens.of_tokenizer(tiny_tokenizer)
    control.record_in(backbone.config)
    with torch.no_grad():
        for token in (control.fork_token_id, tiny_tokenizer.eos_token_id):
            backbone.lm_head.weight[token] *= 4
    return MedusaAparModel(backbone)


def tree(model: MedusaAparModel, tokenizer: PreTrainedTokenizerFast) -> ParagraphTree:
    output: Any = model.generate(
        **tokenizer("Hello", return_tensors="pt"), max_new_tokens=60, max_depth=3, return_dict_in_generate=True
    )
    found: ParagraphTree = output.trees[0]
    return found


def linear_path(row: TreeRow, last: int) -> list[int]:
    """Tokens that a token of a row attends to, itself among them, by position."""
    mask = path_mask(torch.tensor(row.node), torch.tensor(row.node_parent))
    seen = sorted(mask[last].nonzero()[:, 0].tolist(), key=lambda at: row.position_ids[at])
    assert [row.position_ids[at] for at in seen] == list(range(len(seen)))
    return [row.input_ids[at] for at in seen]


def test_a_decoded_row_has_every_thread_as_a_linear_path(
    model: MedusaAparModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    decoded = tree(model, tiny_tokenizer)
    assert len(decoded.threads) > 3
    assert max(thread.depth for thread in decoded.threads) == 3
    row = decoded_row(decoded)
    ends = [at for at, after in enumerate(row.successor) if after == NO_SUCCESSOR]
    paths = sorted(linear_path(row, at) for at in ends)
    # A thread that ended right at its fork ends on the same token as its child's context.
    assert [thread.token_ids for thread in sorted(decoded.threads, key=lambda t: t.token_ids)] == paths
    own = sum(len(thread.own_token_ids) for thread in decoded.threads)
    assert len(row) == decoded.threads[0].prompt_length + own


def test_successors_of_a_decoded_row_are_the_next_tokens_of_its_threads(
    model: MedusaAparModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    decoded = tree(model, tiny_tokenizer)
    row = decoded_row(decoded)
    labels = [label for label in next_token_labels(row) if label != IGNORE_INDEX]
    child = ControlTokens.of_tokenizer(tiny_tokenizer).child_token_id
    chosen = [token for thread in decoded.threads for token in thread.own_token_ids if token != child]
    assert sorted(labels) == sorted(chosen), "each chosen token is a label once; prompts and [Child] are none"


def prompts(tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    return [
        tokenizer.apply_chat_template(Response(prompt, "").question, add_generation_prompt=True, return_dict=False)
        for prompt in PROMPTS
    ]


def ask(model: MedusaAparModel, tokenizer: PreTrainedTokenizerFast, path: Path) -> list[TreeRow]:
    return own_answers(model.backbone, tokenizer, prompts(tokenizer), path, max_new_tokens=20, batch=2)


def test_every_prompt_is_answered_in_one_of_the_ways(
    model: MedusaAparModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rows = ask(model, tiny_tokenizer, tmp_path / "own.jsonl")
    assert len(rows) == len(PROMPTS)
    fork = ControlTokens.of_tokenizer(tiny_tokenizer).fork_token_id
    for number, (prompt, row) in enumerate(zip(PROMPTS, rows, strict=True)):
        text = tiny_tokenizer.decode([token for token, own in zip(row.input_ids, row.prompt, strict=True) if own])
        assert prompt in text
        if not WAYS[number // 3 % len(WAYS)]["apar"]:  # seven prompts in three ways
            assert fork not in row.input_ids
    assert any(fork in row.input_ids for row in rows)


def test_an_interrupted_run_goes_on_behind_its_last_whole_batch(
    model: MedusaAparModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = tmp_path / "own.jsonl"
    rows, whole = ask(model, tiny_tokenizer, path), path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:40])
    assert ask(model, tiny_tokenizer, path) == rows
    assert path.read_bytes() == whole


def test_answers_to_other_prompts_are_not_taken_for_these(
    model: MedusaAparModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = tmp_path / "own.jsonl"
    ask(model, tiny_tokenizer, path)
    whole = path.read_bytes()
    with pytest.raises(InputError, match=r"own\.jsonl: line 1 answers other prompts.*; remove the file"):
        own_answers(model.backbone, tiny_tokenizer, prompts(tiny_tokenizer)[1:], path, max_new_tokens=20, batch=2)
    with pytest.raises(InputError, match=r"line 1 answers .*--max_new_tokens 20; remove the file"):
        own_answers(model.backbone, tiny_tokenizer, prompts(tiny_tokenizer), path, max_new_tokens=30, batch=2)
    assert path.read_bytes() == whole


def test_answers_that_cannot_be_kept_stop_the_run(
    model: MedusaAparModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"nowhere.*cannot be written .*goes on after"):
        ask(model, tiny_tokenizer, tmp_path / "nowhere" / "own.jsonl")


def test_a_tokenizer_without_padding_pads_with_eos(
    model: MedusaAparModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """As those of Llama and Mistral."""
    unpadded = deepcopy(tiny_tokenizer)
    unpadded.pad_token = None
    of_different_lengths = [prompt * (1 + number) for number, prompt in enumerate(prompts(unpadded)[:2])]
    rows = own_answers(model.backbone, unpadded, of_different_lengths, tmp_path / "own.jsonl", max_new_tokens=8)
    for prompt, row in zip(of_different_lengths, rows, strict=True):
        assert [token for token, own in zip(row.input_ids, row.prompt, strict=True) if own] == prompt
