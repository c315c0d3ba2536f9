"""Draft trees of Medusa heads."""

from __future__ import annotations

from torch import Tensor, nn

from medusa_apar.heads import MedusaHeads
from medusa_apar.runner.compilation import Compiler

from .drafter import Drafter


class ParallelDrafter(Drafter):
    """Drafts with Medusa heads, none of which sees what the others propose.

    Args:
        heads: the Medusa heads.
        lm_head: the backbone's output projection.
    """

    WIDTH = 10
    """As many tokens of a head as medusa-llm's trees use."""

    heads: MedusaHeads

    def __init__(self, heads: MedusaHeads, lm_head: nn.Module, compiler: Compiler | None) -> None:
        super().__init__(heads, self.WIDTH, compiler)
        self.lm_head = lm_head

    def _advance(self, level: int, state: Tensor, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        return state, self.heads.head_logits(level, state, self.lm_head)

    def _follow(self, state: Tensor, parent: Tensor) -> Tensor:
        return state
