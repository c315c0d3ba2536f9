"""What every set of heads does: guess along a path behind a backbone's hidden state."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn
from transformers import PreTrainedModel

from .config import HeadsConfig


class DraftHeads(PreTrainedModel):
    """A set of heads over a backbone's last hidden state."""

    config: HeadsConfig
    base_model_prefix = "heads"
    main_input_name = "hidden_states"

    @abstractmethod
    def forward(
        self,
        hidden_states: Tensor,
        lm_head: nn.Module,
        embeddings: nn.Module | None = None,
        path: Tensor | None = None,
    ) -> Tensor:
        """Logits of every head, along paths that are known, as in training.

        Args:
            hidden_states: `[..., hidden_size]`, what enters the backbone's `lm_head`; of any dtype and device.
            lm_head: the backbone's output projection.
            embeddings: the backbone's input embeddings, for heads that see the guesses before their own.
            path: `[..., num_heads]` int64, the tokens behind each place, for the same; head k guesses behind the first
                k of them.

        Returns:
            `[num_heads, ..., vocab_size]`, on the heads' device.
        """

    def check_fits(self, backbone: PreTrainedModel) -> None:
        """Raise a ValueError where these heads cannot sit on a backbone."""
        sizes = backbone.config.get_text_config()
        for name, ours, theirs in (
            ("hidden_size", self.config.hidden_size, sizes.hidden_size),
            ("vocab_size", self.config.vocab_size, sizes.vocab_size),
        ):
            if ours != theirs:
                raise ValueError(
                    f"heads have {name}={ours}, but the backbone has {name}={theirs}; "
                    "use heads that were trained on this backbone (`medusa-apar train heads`)"
                )
