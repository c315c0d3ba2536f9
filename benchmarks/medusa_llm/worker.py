"""Runs medusa-llm's own decoding in its own environment; `bench` talks to it.

medusa-llm 0.1 needs transformers of 2023, so this script imports nothing of this project. It reads one request per
line from standard input, `{"input_ids": [...], "choices": [1, 7, 6], "max_new_tokens": 256}`, and answers each with one
line, `{"token_ids": [...], "steps": 70, "seconds": 0.9}`. Its first line names the versions that it runs on.

Usage: python worker.py HEADS_FOLDER EOS_TOKEN_ID CPU_THREADS
"""

from __future__ import annotations

import json
import sys
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import transformers
from medusa.model import medusa_model  # type: ignore[import-untyped]


class TokenIds:
    """Stands where medusa-llm wants a tokenizer: its `text` is the token ids, so that no step waits for text."""

    def __init__(self, eos_token_id: int) -> None:
        self.eos_token_id = eos_token_id

    def decode(self, token_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        """The token ids, unchanged."""
        return token_ids


def load(heads: str, eos_token_id: int) -> Any:
    """Load heads, and the backbone that their config names, with medusa-llm's own code.

    Args:
        heads: folder in medusa-llm's format.
        eos_token_id: ends an answer.
    """

    class Tokenizers:
        @staticmethod
        def from_pretrained(_: str) -> TokenIds:
            return TokenIds(eos_token_id)

    medusa_model.AutoTokenizer = Tokenizers
    model = medusa_model.MedusaModel.from_pretrained(heads).eval()
    give_blocks_their_own_weights(model.medusa_head, Path(heads))
    return model


def give_blocks_their_own_weights(medusa_head: Any, heads: Path) -> None:
    """Load heads of several residual blocks: medusa-llm repeats one block, whatever their file holds.

    Args:
        medusa_head: medusa-llm's heads.
        heads: their folder.
    """
    for number, head in enumerate(medusa_head):
        medusa_head[number] = torch.nn.Sequential(*map(deepcopy, head))
    medusa_head.load_state_dict(torch.load(heads / "medusa_lm_head.pt", weights_only=True))


@torch.inference_mode()
def answer(model: Any, input_ids: list[int], choices: list[int], max_new_tokens: int, eos_token_id: int) -> Any:
    """Decode one prompt greedily.

    Args:
        model: medusa-llm's model.
        input_ids: `[length]`.
        choices: `medusa_choices`: 1, then the draft tokens per head; so many heads draft.
        max_new_tokens: tokens of the answer.
        eos_token_id: ends the answer.

    Returns:
        The answer `token_ids`; `steps`, forward passes after the one that reads the prompt; `seconds`.
    """
    model.medusa = len(choices) - 1
    start = time.perf_counter()
    steps, token_ids = 0, torch.empty(0, dtype=torch.long)
    for output in model.medusa_generate(
        torch.tensor([input_ids]), temperature=0.0, max_steps=max_new_tokens, medusa_choices=choices
    ):
        steps, token_ids = steps + 1, output["text"]
        if len(token_ids) >= max_new_tokens:
            break
    seconds = time.perf_counter() - start
    ids: list[int] = token_ids.tolist()[:max_new_tokens]
    if eos_token_id in ids:
        ids = ids[: ids.index(eos_token_id) + 1]
    return {"token_ids": ids, "steps": steps, "seconds": seconds}


def main() -> None:
    """Answer requests until standard input ends."""
    heads, eos_token_id, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    replies, sys.stdout = sys.stdout, sys.stderr

    def reply(row: Any) -> None:
        print(json.dumps(row), file=replies, flush=True)

    torch.set_num_threads(threads)
    model = load(heads, eos_token_id)
    reply({"torch": torch.__version__, "transformers": transformers.__version__})
    for line in sys.stdin:
        request = json.loads(line)
        reply(answer(model, eos_token_id=eos_token_id, **request))


if __name__ == "__main__":
    main()
