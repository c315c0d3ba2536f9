"""Draft trees of sequential heads."""

from __future__ import annotations

from torch import Tensor, nn

from medusa_apar.heads import SequentialHeads
from medusa_apar.runner.compilation import Compiler

from .drafter import Drafter


class SequentialDrafter(Drafter):
    """Drafts with sequential heads, each token given those before it.

    Args:
        heads: the sequential heads.
        embeddings: the backbone's input embeddings.
        lm_head: its output projection.
    """

    WIDTH = 4
    """A head looks at so many paths for each row, each at a cost."""

    heads: SequentialHeads

    def __init__(
        self, heads: SequentialHeads, embeddings: nn.Module, lm_head: nn.Module, compiler: Compiler | None
    ) -> None:
        super().__init__(heads, self.WIDTH, compiler)
        self.embeddings = embeddings
        self.lm_head = lm_head

    def _advance(self, level: int, state: Tensor, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        state = self.heads.advance(state, token_ids, self.embeddings)
        return state, self.heads.project(state, self.lm_head)

    def _follow(self, state: Tensor, parent: Tensor) -> Tensor:
        return state.gather(1, parent[..., None].expand(-1, -1, state.shape[-1]))
