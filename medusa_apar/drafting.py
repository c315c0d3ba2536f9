"""Guesses of the Medusa heads, calibrated."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .heads import MedusaHeads

TOP_K = 10
"""Guesses looked at per head, as many as medusa-llm's trees use."""


class Drafter:
    """Turns hidden states into guesses.

    Args:
        heads: the Medusa heads.
        lm_head: the backbone's output projection.
    """

    def __init__(self, heads: MedusaHeads, lm_head: nn.Module) -> None:
        self.heads = heads
        self.lm_head = lm_head
        self._sharpness = 1.0 / torch.tensor(
            heads.config.calibration_temperature, dtype=torch.float32, device=heads.device
        ).view(-1, 1, 1)

    def __call__(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """Guess behind each of some hidden states.

        Args:
            hidden_states: `[rows, hidden_size]`, what enters `lm_head`.

        Returns:
            Token ids, int64, and log-probabilities, float32, both `[heads, rows, k]`, best first.
        """
        logits = self.heads(hidden_states, self.lm_head).float() * self._sharpness
        best = logits.topk(min(TOP_K, logits.shape[-1]), dim=-1)
        return best.indices, best.values - logits.logsumexp(dim=-1, keepdim=True)
