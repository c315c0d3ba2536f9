"""Draft trees after pending tokens: the paths that the heads find likeliest, calibrated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medusa_apar.heads import DraftHeads
from medusa_apar.runner.compilation import Compiler

from .pending_tokens import ComputedNodes, PendingTokens

TreeShape = tuple[tuple[tuple[int, int], ...], ...]
"""A fixed tree: for every level its nodes, each as its parent's place in the level above and its rank after it."""


@dataclass(frozen=True, slots=True)
class Beam:
    """The tree of the likeliest paths.

    Attributes:
        levels: tokens ahead.
        width: paths of each length.
    """

    levels: int
    width: int


DraftShape = Beam | TreeShape
"""What is drafted after a pending token."""
State = Any
"""What is known of paths: a tensor `[rows, paths, size]`, or more than that."""
Trees = tuple[Tensor, Tensor, Tensor]
"""What `Drafter.propose` returns."""
Search = Callable[[State, Tensor, DraftShape], Trees]
"""Finds the likeliest paths after tokens `[rows]`, given what is known `[rows, 1, ...]` of the tokens before them."""


class Drafter(ABC):
    """Turns features of nodes into draft trees.

    A path is as likely as the product of its tokens' calibrated probabilities.

    Args:
        heads: the heads.
        width: paths of each length that are looked at; fewer where the vocabulary is smaller.
        compiler: of the search; None runs it as it is.

    Attributes:
        beams: the likeliest paths that a step may ask for, the widest and deepest first: of all heads or of the first
            half of them, as many as are looked at or the likeliest alone.
    """

    def __init__(self, heads: DraftHeads, width: int, compiler: Compiler | None) -> None:
        self.heads = heads
        self.width = min(width, heads.draftable)
        levels = heads.config.num_heads
        every = (Beam(deep, wide) for deep in (levels, max(1, levels // 2)) for wide in (self.width, 1))
        self.beams = tuple(dict.fromkeys(every))
        self._sharpness = self._inverse_temperatures()
        self._search: Search = (
            self._grow if compiler is None else WarmedUpSearch(compiler.compiled(self._grow), self.beams)
        )

    def read(self, nodes: ComputedNodes) -> None:
        """See nodes that a forward pass has computed."""
        return

    def propose(self, pending: PendingTokens, shape: DraftShape) -> Trees | None:
        """Draft trees after some pending tokens.

        The likeliest paths of one length are looked for among those that go on from the likeliest of the length before:
        a path is no likelier than what it goes on from.

        Args:
            pending: the tokens.
            shape: one of the beams, or that of a fixed tree.

        Returns:
            `[rows, levels, width]` each, the best of a level first: token ids, int64; the token before, int64, by its
            place in the level above; the log-probability of the path, float32, -inf where there is no token. `width` is
            that of the drafter, or of a wider fixed tree; there are as many levels as the shape has, or heads. None
            where there is no room to draft.
        """
        return self._search(pending.features[:, None], pending.token_ids, shape)

    def _grow(self, state: State, pending: Tensor, shape: DraftShape) -> Trees:
        """The search, as it is compiled."""
        token_ids = pending[:, None].to(self.heads.device)
        scores = torch.zeros_like(token_ids, dtype=torch.float32)
        levels = []
        depth = shape.levels if isinstance(shape, Beam) else min(len(shape), self.heads.config.num_heads)
        for level in range(depth):
            state, logits = self._advance(level, state, token_ids)
            ranked = shape.width if isinstance(shape, Beam) else 1 + max(rank for _, rank in shape[level])
            ids, log_probs = self._best(logits.float() * self._sharpness[level], ranked)
            every = (scores[..., None] + log_probs).flatten(1)  # [rows, paths * ranked]
            if isinstance(shape, Beam) and every.shape[1] > shape.width:
                scores, place = every.topk(shape.width)
            elif isinstance(shape, Beam):  # after a single path all are kept, and the best comes first
                scores, place = every, torch.arange(shape.width, device=every.device).expand_as(every)
            else:
                places = [parent * ranked + rank for parent, rank in shape[level]]
                place = torch.tensor(places, device=every.device).expand(len(every), -1)
                scores = every.gather(1, place)
            parent = place // ranked
            token_ids = ids.expand(-1, every.shape[1] // ranked, -1).flatten(1).gather(1, place)
            state = self._follow(state, parent)
            levels.append((token_ids, parent, scores))
        width = max(self.width, *(len(level[0][0]) for level in levels))
        return (
            torch.stack([_padded(ids, width, 0) for ids, _, _ in levels], dim=1),
            torch.stack([_padded(parent, width, 0) for _, parent, _ in levels], dim=1),
            torch.stack([_padded(scores, width, -torch.inf) for _, _, scores in levels], dim=1),
        )

    @abstractmethod
    def _advance(self, level: int, state: Any, token_ids: Tensor) -> tuple[Any, Tensor]:
        """Let a head look at paths.

        Args:
            level: which head, from 0.
            state: what is known of the paths without their last tokens.
            token_ids: `[rows, paths]` their last tokens.

        Returns:
            What is known of the paths now, and logits `[rows, paths or 1, logits]`.
        """

    @abstractmethod
    def _follow(self, state: Any, parent: Tensor) -> Any:
        """What is known of the paths that lead to tokens `[rows, width]`, given their parents."""

    def _best(self, logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The likeliest tokens after paths, and their log-probabilities: `[rows, paths, count]`."""
        best = logits.log_softmax(dim=-1, dtype=torch.float32)[..., : self.heads.draftable].topk(count)
        tokens = self.heads.draft_token_ids
        # Rounding must not lift a path above the path that it goes on from.
        return best.indices if tokens is None else tokens[best.indices], best.values.clamp(max=0)

    def _inverse_temperatures(self) -> Tensor:
        """Of every head, `[heads]`."""
        temperatures = self.heads.config.calibration_temperature
        return 1.0 / torch.tensor(temperatures, dtype=torch.float32, device=self.heads.device)


class WarmedUpSearch:
    """A compiled search, of which nothing is compiled in the middle of an answer.

    Each beam that a budget may ask for is a graph of its own; the first call compiles them all.

    Args:
        search: the compiled search of a drafter.
        beams: that it may be asked for.
    """

    def __init__(self, search: Search, beams: tuple[Beam, ...]) -> None:
        self._search = search
        self._beams = beams
        self._warmed_up = False

    def __call__(self, state: State, pending: Tensor, shape: DraftShape) -> Trees:
        assert isinstance(state, Tensor)
        twice = state[[0, 0]], pending[[0, 0]]  # a single row would be a graph of its own
        if not self._warmed_up:
            self._warmed_up = True
            for beam in self._beams:
                self._search(*twice, beam)
        if len(pending) > 1:
            return self._search(state, pending, shape)
        token_ids, parents, scores = self._search(*twice, shape)
        return token_ids[:1], parents[:1], scores[:1]


def _padded(level: Tensor, width: int, value: float) -> Tensor:
    return nn.functional.pad(level, (0, width - level.shape[1]), value=value)
