"""The slow reference: every thread decoded alone, by the backbone's own `generate`, on its linear context.

Threads are decoded one after the other, without heads, trees, masks or a pool. Everything that is
faster is held against this.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel

from medusa_apar import ControlTokenRules, ControlTokens, ParagraphTree

TIE = 1e-3
"""A divergence is a tie, and no error, where the oracle's own two best logits are closer than this."""


@dataclass(frozen=True)
class Oracle:
    """Plain decoding under the control-token rules; what it has decoded once it knows."""

    backbone: PreTrainedModel
    control: ControlTokens
    eos_token_id: int
    max_depth: int = 2
    apar: bool = True
    _known: dict[tuple[Any, ...], tuple[list[int], list[Tensor]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def continue_thread(self, context: list[int], depth: int, max_new_tokens: int) -> tuple[list[int], list[Tensor]]:
        """The tokens that `generate` puts after a linear context, and the logits from which it chose them."""
        key = (*context, depth, max_new_tokens)
        if key in self._known:
            return self._known[key]
        rules = ControlTokenRules(self.control, fork_allowed=self.apar and depth < self.max_depth)
        output = self.backbone.generate(
            torch.tensor([context], device=self.backbone.device),
            attention_mask=torch.ones(1, len(context), dtype=torch.int64, device=self.backbone.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=self.eos_token_id,
            pad_token_id=self.eos_token_id,
            logits_processor=LogitsProcessorList([rules]),
            return_dict_in_generate=True,
            output_scores=True,
        )
        self._known[key] = output.sequences[0, len(context) :].tolist(), [scores[0] for scores in output.scores]
        return self._known[key]

    def answer(self, prompt: list[int], max_new_tokens: int) -> list[int]:
        """The whole answer in reading order, cut after `max_new_tokens` visible tokens."""
        visible = self._subtree(prompt, 1, max_new_tokens, max_new_tokens)
        return visible[:max_new_tokens]

    def _subtree(self, context: list[int], depth: int, room: int, budget: int) -> list[int]:
        fork, child = self.control.fork_token_id, self.control.child_token_id
        # Control tokens are not visible: a thread may need up to twice the room.
        tokens, _ = self.continue_thread(context, depth, 2 * room + 2)
        visible: list[int] = []
        for index, token in enumerate(tokens):
            if len(visible) >= budget:
                break
            if token == fork:
                opened = [*context, *tokens[: index + 1], child]
                visible += self._subtree(opened, depth + 1, budget - len(visible), budget - len(visible))
            elif token != self.eos_token_id or depth == 1:
                visible.append(token)
        return visible

    def check(self, tree: ParagraphTree) -> int:
        """Compare every own token of every thread with the backbone's choice on the thread's linear context.

        Returns:
            How many threads were given up at a tie.
        """
        ties = 0
        for number, thread in enumerate(tree.threads):
            start = thread.own_start + (thread.parent is not None)
            wanted = thread.token_ids[start:]
            if not wanted:
                continue
            tokens, logits = self.continue_thread(thread.token_ids[:start], thread.depth, len(wanted))
            for at, (ours, theirs) in enumerate(zip(wanted, tokens, strict=False)):
                if ours == theirs:
                    continue
                best = logits[at].float().topk(2).values
                gap = float(best[0] - best[1])
                assert gap < TIE, f"thread {number}, own token {at}: {ours}, but the backbone chooses {theirs} ({gap=})"
                ties += 1
                break
            else:
                assert len(tokens) >= len(wanted), f"thread {number} goes on after the backbone's EOS"
                ended = tokens[-1] == self.eos_token_id
                assert (thread.finish_reason == "eos") == (ended and len(tokens) == len(wanted))
        return ties
