"""Held-out figures of heads are those of the decoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from medusa_apar.model import MedusaAparModel
from medusa_apar.train.evaluation.held_out import measure
from medusa_apar.train.rows.tree_data import TreeCollator, decoded_row

from ..fixtures import TINY


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["heads", "medusa"])
@pytest.mark.parametrize("apar", [True, False])
def test_acceptance_along_an_answer_is_what_the_decoder_accepts(kind: str, apar: bool) -> None:
    model = MedusaAparModel.from_pretrained(TINY, heads=TINY / kind, dtype=torch.float32)
    assert model.heads is not None
    levels = model.heads.config.num_heads
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    chat = [{"role": "user", "content": "What are the main causes of stress?"}]
    prompt: Any = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output: Any = model.generate(
        **prompt, max_new_tokens=400, apar=apar, max_threads=1, return_dict_in_generate=True,
        medusa_choices=[[0] * length for length in range(1, levels + 1)],
    )  # fmt: skip
    batch = TreeCollator(pad_token_id=0, label_heads=levels)([decoded_row(output.trees[0])])
    acceptance = measure(model.backbone, model.heads, [batch]).acceptance
    assert acceptance == sorted(acceptance, reverse=True)
    stats = output.stats
    assert (stats.forks > 0) == apar
    # Threads start and end in steps with fewer draft tokens than the path has places for; their EOS is none.
    ends = (stats.forks + 1) / stats.steps
    assert sum(acceptance) == pytest.approx(stats.accepted_draft_tokens / stats.steps, abs=ends + 1e-9)
    assert sum(acceptance) > 3 * ends, "so that this tells something"
