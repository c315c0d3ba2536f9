"""Configuration of Medusa heads."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class MedusaHeadsConfig(PretrainedConfig):
    """Shape of a set of Medusa heads.

    Args:
        num_heads: heads; head k (from 1) guesses the token k + 1 positions ahead.
        num_layers: residual blocks in a head.
        hidden_size: width of the backbone's last hidden state.
        vocab_size: tokens of the backbone.
        shared_projection: project with the backbone's own `lm_head` rather than one matrix per head.
        calibration_temperature: per head, what its logits are divided by before they count as
            probabilities; fitted on held-out data. Empty: ones.
        accuracy: per head, held-out top-1 to top-5 accuracy; empty before training.
    """

    model_type = "medusa_heads"

    def __init__(
        self,
        num_heads: int = 5,
        num_layers: int = 1,
        hidden_size: int = 4096,
        vocab_size: int = 32000,
        shared_projection: bool = False,
        calibration_temperature: list[float] | None = None,
        accuracy: list[list[float]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.num_heads = num_heads
        self.num_layers = num_layers
        self.hidden_size = hidden_size
        self.vocab_size = vocab_size
        self.shared_projection = shared_projection
        self.calibration_temperature = calibration_temperature or [1.0] * num_heads
        self.accuracy = accuracy or []
        super().__init__(**kwargs)
