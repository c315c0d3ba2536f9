"""The sequential heads module: every draft token is chosen in view of those before it.

Source: Hydra (Ankner et al. 2024, arXiv 2402.05109), section 3, for heads that see the embeddings of earlier draft
tokens; recurrent drafting (Zhang et al. 2024, arXiv 2403.09919), section 3, for one head that is applied again and
again. It moves a state on by a token, and the backbone's own `lm_head` projects the state to the vocabulary; or a
small matrix of the heads' own projects it to a draft vocabulary of the commonest tokens: FR-Spec (Zhao et al. 2025,
arXiv 2502.14856), section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .backbone_weights import execution_device, projection_weight
from .config import SequentialHeadsConfig
from .draft_heads import DraftHeads, PathRows


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
        self.projection: nn.Linear | None = None
        if config.draft_vocab_size is not None:
            self.projection = nn.Linear(config.hidden_size, config.draft_vocab_size, bias=False)
            self.register_buffer("draft_token_ids", torch.arange(config.draft_vocab_size - 1))
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def for_backbone(
        cls,
        backbone: PreTrainedModel,
        *,
        num_heads: int = 5,
        intermediate_size: int | None = None,
        draft_token_ids: Tensor | None = None,
    ) -> SequentialHeads:
        """Untrained heads for a backbone, which draft what its `lm_head` does.

        Args:
            backbone: the model.
            num_heads: tokens that are drafted ahead.
            intermediate_size: of `SequentialHeadsConfig`.
            draft_token_ids: `[tokens]` int64, of a draft vocabulary; None drafts among all tokens.
        """
        sizes = backbone.config.get_text_config()
        config = SequentialHeadsConfig(
            num_heads=num_heads,
            intermediate_size=intermediate_size,
            draft_vocab_size=None if draft_token_ids is None else len(draft_token_ids) + 1,
            embedding_scale=1 / _embedding_size(backbone),
            hidden_size=sizes.hidden_size,
            vocab_size=sizes.vocab_size,
        )
        heads = cls(config)
        if draft_token_ids is not None:
            assert heads.projection is not None
            rows = projection_weight(backbone)[draft_token_ids]
            with torch.no_grad():
                heads.projection.weight.copy_(nn.functional.pad(rows, (0, 0, 0, 1)))
            heads.draft_token_ids = draft_token_ids.clone()
        return heads.beside(backbone)

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
        embedding = embeddings(token_ids).to(own.device, own.dtype) * self.config.embedding_scale
        moved: Tensor = self.head(state.to(own.device, own.dtype), embedding)
        return moved.to(state)

    def project(self, state: Tensor, lm_head: nn.Module) -> Tensor:
        """Logits `[..., logits]` of states, on the heads' device."""
        own = self.head.up.weight
        logits: Tensor
        if self.projection is None:
            logits = lm_head(state).to(own.device)
        else:
            logits = self.projection(state.to(own.device, own.dtype))
        return logits

    def forward(
        self,
        hidden_states: Tensor,
        lm_head: nn.Module,
        embeddings: nn.Module | None = None,
        path: Tensor | None = None,
        rows: PathRows | None = None,
    ) -> Tensor:
        if embeddings is None or path is None:
            raise ValueError("sequential heads draft after known tokens; pass embeddings and path")
        logits, state = [], hidden_states
        for token_ids in path.unbind(dim=-1):
            state = self.advance(state, token_ids, embeddings)
            logits.append(self.project(state, lm_head))
        return torch.stack(logits)

    def as_drafted(self, probabilities: Tensor) -> Tensor:
        """As `DraftHeads.as_drafted`; the last logit of a draft vocabulary stands for all other tokens."""
        if self.draft_token_ids is None:
            return probabilities
        known = probabilities[..., self.draft_token_ids]
        others = (1 - known.sum(dim=-1, keepdim=True)).clamp(min=0)
        return torch.cat([known, others], dim=-1)


@torch.no_grad()
def _embedding_size(backbone: PreTrainedModel) -> float:
    """Root mean square of the entries of a backbone's embeddings."""
    embeddings = backbone.get_input_embeddings()
    tokens = torch.arange(backbone.config.get_text_config().vocab_size, device=execution_device(embeddings))
    sizes = [embeddings(some).float().square().mean() for some in tokens.split(1024)]  # type: ignore[no-untyped-call]
    return float(torch.stack(sizes).mean().sqrt())
