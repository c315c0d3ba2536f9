"""A backbone's own answers as training rows: what heads have to guess when they serve.

Source: Medusa (Cai et al. 2024, arXiv 2401.10774), section 2.3.2, self-distillation. The answers are kept as the
decoder's threads wrote them, token for token, and not as text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from medusa_apar.model import MedusaAparModel

from .tree_data import TreeRow, decoded_row

WAYS: tuple[dict[str, Any], ...] = (
    {"apar": True},
    {"apar": True, "do_sample": True, "temperature": 0.7},
    {"apar": False},
)
"""How prompts are answered in turn: heads guess in threads and without, and see more than the likeliest answers."""


def own_answers(
    model: MedusaAparModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    path: Path,
    *,
    max_new_tokens: int,
    batch: int = 32,
) -> list[TreeRow]:
    """Let a backbone answer prompts.

    Args:
        model: the backbone, without heads.
        tokenizer: with a chat template.
        prompts: what to answer, each once, in one of `WAYS`.
        path: JSON lines that keep the answers, a batch in each; what is there already is not made again.
        max_new_tokens: of an answer.
        batch: prompts that are answered together.

    Returns:
        A row for each prompt.
    """
    batches = [prompts[start : start + batch] for start in range(0, len(prompts), batch)]
    made = _kept(path)
    with path.open("a", encoding="utf-8") as file:
        todo = range(len(made), len(batches))
        for number in tqdm(todo, desc="own answers", initial=len(made), total=len(batches)):
            way = WAYS[number % len(WAYS)]
            made.append(_answers(model, tokenizer, batches[number], max_new_tokens, seed=number, **way))
            file.write(json.dumps([asdict(row) for row in made[-1]]) + "\n")
            file.flush()
    return [row for rows in made for row in rows]


def _kept(path: Path) -> list[list[TreeRow]]:
    """The batches that a file holds; one that an interruption cut off is removed."""
    if not path.exists():
        return []
    made, size = [], 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            made.append([TreeRow(**row) for row in json.loads(line)])
            size += len(line)
    with path.open("r+b") as file:
        file.truncate(size)
    return made


def _answers(
    model: MedusaAparModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    **ways: Any,
) -> list[TreeRow]:
    inputs: Any = tokenizer.apply_chat_template(
        [[{"role": "user", "content": prompt}] for prompt in prompts],
        add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True,
    )  # fmt: skip
    output: Any = model.generate(
        inputs["input_ids"].to(model.device),
        attention_mask=inputs["attention_mask"].to(model.device),
        max_new_tokens=max_new_tokens,
        return_dict_in_generate=True,
        **ways,
    )
    return [decoded_row(tree) for tree in output.trees]
