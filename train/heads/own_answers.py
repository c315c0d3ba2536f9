"""A backbone's own answers as training rows: what heads have to draft when they serve.

Source: Medusa (Cai et al. 2024, arXiv 2401.10774), section 2.3.2, self-distillation. The answers are kept as the
decoder's threads wrote them, token for token, and not as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from medusa_apar.linears.dtype import default_dtype
from medusa_apar.model import MedusaAparModel

from ..batch_log import BatchLog
from ..command_line import InputError
from ..prompt_batch import left_padded, split_into_calls
from ..rows.tree_data import TreeRow, decoded_row
from ..tree_attention import FLEX

WAYS: tuple[dict[str, Any], ...] = (
    {"apar": True},
    {"apar": True, "do_sample": True, "temperature": 0.7},
    {"apar": False},
)
"""How prompts are answered in turn: heads draft in threads and without, and see more than the likeliest answers."""


def kept_answers(output_dir: str | Path, part: str) -> Path:
    """Where a training keeps own answers; transformers pushes no file to a hub whose name begins like this."""
    return Path(output_dir) / f"_own-{part}.jsonl"


def own_answers(
    backbone: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    path: Path,
    *,
    max_new_tokens: int,
    batch: int = 32,
) -> list[TreeRow]:
    """Let a backbone answer prompts, in the precision in which it serves.

    Args:
        backbone: an APAR-tuned causal LM.
        tokenizer: of the prompts.
        prompts: tokens to answer, each once, in one of `WAYS`; shorter than the backbone's context.
        path: JSON lines that keep the answers, those of a call in each; what is there already is not made again.
        max_new_tokens: of an answer.
        batch: prompts that are answered together.

    Returns:
        A row for each prompt.

    Raises:
        InputError: `path` keeps answers to something else, or cannot be written.
    """
    asked: list[dict[str, Any]] = [
        {"prompts": each, "max_new_tokens": max_new_tokens} for each in split_into_calls(prompts, batch, len(WAYS))
    ]
    log = BatchLog(path)
    for number, (answered, each) in enumerate(zip(log.batches, asked, strict=False), start=1):
        if {name: answered.get(name) for name in each} != each:
            raise InputError(
                f"{path}: line {number} answers other prompts, or --max_new_tokens {answered.get('max_new_tokens')}; "
                "remove the file, or choose another --output_dir"
            )
    rows = [TreeRow(**row) for answered in log.batches[: len(asked)] for row in answered["rows"]]
    if len(log.batches) < len(asked):
        answering: PreTrainedModel = deepcopy(backbone).to(default_dtype())  # type: ignore[arg-type]
        if answering.config._attn_implementation == FLEX:
            capped = getattr(answering.config, "attn_logit_softcapping", None) is not None
            answering.set_attn_implementation("eager" if capped else "sdpa")
        model = MedusaAparModel(answering)
        with tqdm(desc="own answers", initial=len(rows), total=len(prompts)) as bar:
            for number in range(len(log.batches), len(asked)):
                output: Any = model.generate(
                    **left_padded(asked[number]["prompts"], tokenizer, model.device),
                    max_batch=batch,
                    max_new_tokens=max_new_tokens,
                    seed=number,
                    return_dict_in_generate=True,
                    **WAYS[number % len(WAYS)],
                )
                made = [decoded_row(tree) for tree in output.trees]
                log.add({**asked[number], "rows": [asdict(row) for row in made]})
                rows += made
                bar.update(len(made))
    return rows
