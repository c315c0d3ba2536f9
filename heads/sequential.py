"""The sequential heads module: every guess is made in view of the guesses before it.

Source: Hydra (Ankner et al. 2024, arXiv 2402.05109), section 3, for heads that see the embeddings of earlier guesses;
recurrent drafting (Zhang et al. 2024, arXiv 2403.09919), section 3, for one head that is applied again and again. It
moves a state on by a token, and the backbone's own `lm_head` projects the state to the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .backbone_weights import execution_device
from .config import SequentialHeadsConfig
from .draft_heads import DraftHeads


class SequentialHead(nn.Module):
    """`s + D SiLU(U [s; e] + a) + b`: moves a state `s` on by a token of embedding `e`; at first it stays."""

    def __init__(self, config: SequentialHeadsConfig) -> None:
        super().__init__()
        self.up = nn.Linear(2 * config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, state: Tensor, embedding: Tensor) -> Tensor:
        inner = nn.functional.silu(self.up(torch.cat([state, embedding], dim=-1)))
        moved: Tensor = state + self.down(inner)
        return moved


class SequentialHeads(DraftHeads):
    """One head that is applied `num_heads` times along a path."""

    config_class = SequentialHeadsConfig
    config: SequentialHeadsConfig

    def __init__(self, config: SequentialHeadsConfig) -> None:
        super().__init__(config)
        self.head = SequentialHead(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, SequentialHead):
            module.up.reset_parameters()
            nn.init.zeros_(module.down.weight)
            nn.init.zeros_(module.down.bias)

    @classmethod
    def for_backbone(
        cls, backbone: PreTrainedModel, *, num_heads: int = 5, intermediate_size: int | None = None
    ) -> SequentialHeads:
        """Untrained heads for a backbone, which guess what its `lm_head` does."""
        sizes = backbone.config.get_text_config()
        config = SequentialHeadsConfig(
            num_heads=num_heads,
            intermediate_size=intermediate_size,
            hidden_size=sizes.hidden_size,
            vocab_size=sizes.vocab_size,
        )
        device = execution_device(backbone.get_output_embeddings())
        heads: SequentialHeads = cls(config).to(device=device, dtype=backbone.dtype)  # type: ignore[call-arg]
        return heads

    def advance(self, state: Tensor, token_ids: Tensor, embeddings: nn.Module) -> Tensor:
        """Move states on by a token.

        Args:
            state: `[..., hidden_size]`; at first what enters the backbone's `lm_head`; of any dtype and device.
            token_ids: `[...]` int64.
            embeddings: the backbone's input embeddings.

        Returns:
            `[..., hidden_size]`, for `lm_head`, of the dtype and device of `state`.
        """
        own = self.head.up.weight
        embedding = embeddings(token_ids).to(own.device, own.dtype)
        # Backbones scale embeddings in ways of their own; of unit size they suit the state in all of them.
        unit = nn.functional.rms_norm(embedding, embedding.shape[-1:], eps=1e-6)
        moved: Tensor = self.head(state.to(own.device, own.dtype), unit)
        return moved.to(state)

    def forward(
        self,
        hidden_states: Tensor,
        lm_head: nn.Module,
        embeddings: nn.Module | None = None,
        path: Tensor | None = None,
    ) -> Tensor:
        if embeddings is None or path is None:
            raise ValueError("sequential heads guess behind known tokens; pass embeddings and path")
        logits, state = [], hidden_states
        for token_ids in path.unbind(dim=-1):
            state = self.advance(state, token_ids, embeddings)
            logits.append(lm_head(state))
        return torch.stack(logits).to(self.device)
