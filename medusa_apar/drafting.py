"""Guesses of the Medusa heads, calibrated."""

from __future__ import annotations

from typing import Any

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
        self._sharpness = self._inverse_temperature()

    def to(self, *args: Any, **kwargs: Any) -> None:
        """Move or convert the heads, as `torch.nn.Module.to` does."""
        self.heads.to(*args, **kwargs)
        self._sharpness = self._inverse_temperature()

    def guess(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """Guess behind each of some hidden states.

        Args:
            hidden_states: `[rows, hidden_size]`, what enters `lm_head`.

        Returns:
            Token ids, int64, and log-probabilities, float32, both `[heads, rows, k]`, best first.
        """
        logits = self.heads(hidden_states, self.lm_head).float() * self._sharpness
        best = logits.topk(min(TOP_K, logits.shape[-1]), dim=-1)
        return best.indices, best.values - logits.logsumexp(dim=-1, keepdim=True)

    def _inverse_temperature(self) -> Tensor:
        """Of every head, `[heads, 1, 1]`."""
        temperature = self.heads.config.calibration_temperature
        return 1.0 / torch.tensor(temperature, dtype=torch.float32, device=self.heads.device).view(-1, 1, 1)
