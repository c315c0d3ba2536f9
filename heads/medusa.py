"""The Medusa heads module.

Source: Medusa (Cai et al. 2024, arXiv 2401.10774), section 2.1: residual blocks with SiLU, then a
projection to the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .backbone_weights import projection_weight
from .config import MedusaHeadsConfig
from .draft_heads import DraftHeads, PathRows


class ResidualBlock(nn.Module):
    """`x + SiLU(W x + b)`, the identity at initialisation."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, hidden_size)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.silu(self.linear(x))


class LowRankProjection(nn.Module):
    """`U D x`: a projection to the vocabulary by two small matrices."""

    def __init__(self, hidden_size: int, rank: int, vocab_size: int) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, rank, bias=False)
        self.up = nn.Linear(rank, vocab_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.up(self.down(x))
        return logits


def nearest_product(weight: Tensor, rank: int) -> dict[str, Tensor]:
    """The state of the `LowRankProjection` nearest to a matrix `[vocab_size, hidden_size]`, by its singular values."""
    left, values, right = torch.linalg.svd(weight.float(), full_matrices=False)
    root = values[:rank].sqrt()
    return {"up.weight": left[:, :rank] * root, "down.weight": root[:, None] * right[:rank]}


class MedusaHead(nn.Module):
    """One head: residual blocks, and its own projection unless the backbone's is shared."""

    blocks: nn.Sequential
    projection: nn.Linear | LowRankProjection

    def __init__(self, config: MedusaHeadsConfig) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualBlock(config.hidden_size) for _ in range(config.num_layers)))
        tokens = config.draft_vocab_size or config.vocab_size
        if config.projection_rank is not None:
            self.projection = LowRankProjection(config.hidden_size, config.projection_rank, tokens)
        elif not config.shared_projection:
            self.projection = nn.Linear(config.hidden_size, tokens, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Logits, or with a shared projection what is to enter the backbone's `lm_head`."""
        output: Tensor = self.blocks(hidden_states)
        return self.projection(output) if hasattr(self, "projection") else output


class MedusaHeads(DraftHeads):
    """A set of Medusa heads, each of which drafts from the hidden state alone."""

    config_class = MedusaHeadsConfig
    config: MedusaHeadsConfig

    def __init__(self, config: MedusaHeadsConfig) -> None:
        super().__init__(config)
        self.heads = nn.ModuleList(MedusaHead(config) for _ in range(config.num_heads))
        if config.draft_vocab_size is not None:
            self.register_buffer("draft_token_ids", torch.arange(config.draft_vocab_size))
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def for_backbone(
        cls,
        backbone: PreTrainedModel,
        *,
        num_heads: int = 5,
        num_layers: int = 1,
        shared_projection: bool = False,
        projection_rank: int | None = None,
        draft_token_ids: Tensor | None = None,
    ) -> MedusaHeads:
        """Untrained heads for a backbone: each starts as a copy of the backbone's own `lm_head`, as far as it can.

        Args:
            backbone: the model.
            num_heads: tokens that are drafted ahead.
            num_layers: of `MedusaHeadsConfig`.
            shared_projection: likewise.
            projection_rank: likewise.
            draft_token_ids: `[tokens]` int64, rising, of a draft vocabulary; None drafts among all tokens.
        """
        sizes = backbone.config.get_text_config()
        config = MedusaHeadsConfig(
            num_heads=num_heads,
            num_layers=num_layers,
            hidden_size=sizes.hidden_size,
            vocab_size=sizes.vocab_size,
            shared_projection=shared_projection,
            projection_rank=projection_rank,
            draft_vocab_size=None if draft_token_ids is None else len(draft_token_ids),
        )
        heads = cls(config).beside(backbone)
        if not shared_projection:
            weight = projection_weight(backbone)
            if draft_token_ids is not None:
                heads.draft_token_ids = draft_token_ids.to(heads.device, copy=True)
                weight = weight[draft_token_ids]
            state = {"weight": weight} if projection_rank is None else nearest_product(weight, projection_rank)
            for head in heads.heads:
                assert isinstance(head, MedusaHead)
                head.projection.load_state_dict(state)
        return heads

    def whole_state(self) -> dict[str, Tensor]:
        """The state dict on the CPU, low-rank projections multiplied out, for files that know whole ones alone."""
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        if self.config.projection_rank is not None:
            for head in range(self.config.num_heads):
                prefix = f"heads.{head}.projection."
                up, down = (state.pop(f"{prefix}{name}.weight") for name in ("up", "down"))
                state[f"{prefix}weight"] = (up.float() @ down.float()).to(up.dtype)
        return state

    def lm_head_of(self, backbone: PreTrainedModel | None) -> Tensor:
        """The projection that these heads share, `[vocab_size, hidden_size]`, for files that hold it beside them.

        Raises:
            ValueError: there is no backbone, or its projection is more than a matrix.
        """
        if backbone is None:
            raise ValueError(
                "these heads share the backbone's lm_head, which this format holds beside them; "
                "give the backbone too (`--backbone`)"
            )
        if getattr(backbone.get_output_embeddings(), "bias", None) is not None:
            raise ValueError("the backbone's lm_head has a bias, which this format's heads cannot express")
        return projection_weight(backbone).to(self.dtype).cpu()

    def forward(
        self,
        hidden_states: Tensor,
        lm_head: nn.Module,
        embeddings: nn.Module | None = None,
        path: Tensor | None = None,
        rows: PathRows | None = None,
    ) -> Tensor:
        return torch.stack([self.head_logits(head, hidden_states, lm_head) for head in range(self.config.num_heads)])

    def head_logits(self, head: int, hidden_states: Tensor, lm_head: nn.Module) -> Tensor:
        """Logits of one head, counted from 0: `[..., logits]`; `lm_head` is used where it is shared."""
        own = next(self.parameters(), hidden_states)
        outputs: Tensor = self.heads[head](hidden_states.to(own.device, own.dtype))
        if not self.config.shared_projection:
            return outputs
        logits: Tensor = lm_head(outputs.to(hidden_states)).to(own.device)
        return logits
