"""What every set of heads does: draft along a path after a backbone's hidden state."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .backbone_weights import execution_device
from .config import HeadsConfig


@dataclass(frozen=True, slots=True)
class PathRows:
    """Tree-packed rows, for heads that attend along paths.

    Attributes:
        token_ids, positions: `[rows, length]` int64; a token's position is its depth on its path.
        successors: `[rows, length]` int64, the place of the next token on the path; anything after its end.
        mask: `[rows, 1, length, length]` boolean; (i, j) is true where token j is i or before it on its path.
        places: `[rows, length]` boolean, after which tokens something is drafted.
    """

    token_ids: Tensor
    positions: Tensor
    successors: Tensor
    mask: Tensor
    places: Tensor


class DraftHeads(PreTrainedModel):
    """A set of heads over a backbone's hidden states.

    Attributes:
        kv_layers: layers of keys and values that they keep beside the backbone's.
        draft_token_ids: `[tokens]` int64, the tokens that may be drafted, in the order of the logits; None where every
            token has a logit.
    """

    config: HeadsConfig
    draft_token_ids: Tensor | None
    kv_layers = 0
    base_model_prefix = "heads"
    main_input_name = "hidden_states"

    def __init__(self, config: HeadsConfig) -> None:
        super().__init__(config)
        self.register_buffer("draft_token_ids", None)

    def _init_weights(self, module: nn.Module) -> None:
        """Leave them: every module of a set of heads comes initialised from its constructor."""

    @abstractmethod
    def forward(
        self,
        hidden_states: Tensor,
        lm_head: nn.Module,
        embeddings: nn.Module | None = None,
        path: Tensor | None = None,
        rows: PathRows | None = None,
    ) -> Tensor:
        """Logits of every head, along paths that are known, as in training.

        Args:
            hidden_states: `[..., hidden_size]`, what enters the backbone's `lm_head`; of any dtype and device. For
                heads that attend, `[rows, length, size]`, what enters the auxiliary layers.
            lm_head: the backbone's output projection.
            embeddings: the backbone's input embeddings, for heads that see the draft tokens before their own.
            path: `[..., num_heads]` int64, the tokens after each place, for the same; head k drafts after the first
                k of them.
            rows: that the places lie in, for heads that attend.

        Returns:
            `[num_heads, ..., logits]`, on the heads' device.
        """

    def places_of(self, token_ids: Tensor) -> Tensor:
        """Which logit stands for each of some tokens: int64, of their shape."""
        if self.draft_token_ids is None:
            return token_ids
        tokens = self.draft_token_ids
        places = torch.full((self.config.vocab_size,), len(tokens), device=tokens.device)
        places[tokens] = torch.arange(len(tokens), device=tokens.device)
        return places[token_ids]

    def as_drafted(self, probabilities: Tensor) -> Tensor:
        """Probabilities of all tokens, `[..., vocab_size]`, as those of what the logits stand for, `[..., logits]`."""
        if self.draft_token_ids is None:
            return probabilities
        known = probabilities[..., self.draft_token_ids]
        return known / known.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(known.dtype).tiny)

    @property
    def auxiliary_layers(self) -> tuple[int, ...]:
        """Layers of the backbone whose inputs the heads read; none: they read what enters `lm_head`."""
        return ()

    @property
    def draftable(self) -> int:
        """Tokens that may be drafted."""
        return self.config.vocab_size if self.draft_token_ids is None else len(self.draft_token_ids)

    def beside(self, backbone: PreTrainedModel) -> Self:
        """These heads in the dtype of a backbone, and where it projects to the vocabulary."""
        device = execution_device(backbone.get_output_embeddings())
        placed: Self = self.to(device=device, dtype=backbone.dtype)  # type: ignore[call-arg]
        return placed

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
        tokens = self.draft_token_ids
        if tokens is not None and not bool(((tokens >= 0) & (tokens < self.config.vocab_size)).all()):
            raise ValueError(
                f"draft_token_ids of these heads lie outside a vocabulary of {self.config.vocab_size} tokens; "
                "use heads that were trained on this backbone (`medusa-apar train heads`)"
            )
