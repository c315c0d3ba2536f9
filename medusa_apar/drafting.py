"""Guesses of the Medusa heads, calibrated."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .candidates import Guesses
from .heads import MedusaHeads

TOP_K = 8
"""Guesses looked at per head."""


class Drafter:
    """Turns hidden states into guesses.

    Args:
        heads: the Medusa heads.
        lm_head: the backbone's output projection.
    """

    def __init__(self, heads: MedusaHeads, lm_head: nn.Module) -> None:
        self.heads = heads
        self.lm_head = lm_head
        self._temperature = torch.tensor(
            heads.config.calibration_temperature, dtype=torch.float32, device=heads.device
        ).view(-1, 1, 1)

    def __call__(self, hidden_states: Tensor) -> list[Guesses]:
        """Guess behind each of `hidden_states` `[threads, hidden_size]`, what enters `lm_head`."""
        logits = self.heads(hidden_states, self.lm_head).float() / self._temperature  # [heads, threads, vocabulary]
        best = logits.topk(min(TOP_K, logits.shape[-1]), dim=-1)
        log_probs = best.values - logits.logsumexp(dim=-1, keepdim=True)
        return [
            Guesses(token_ids, thread_log_probs)
            for token_ids, thread_log_probs in zip(
                best.indices.transpose(0, 1).tolist(), log_probs.transpose(0, 1).tolist(), strict=True
            )
        ]
