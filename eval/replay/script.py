"""An answer as a script: every token has an id of its own, so that its id tells where in the answer it stands."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medusa_apar.train.rows.tree_data import NO_SUCCESSOR, TreeRow
from medusa_apar.train.structure import RULES, extract
from medusa_apar.tree.control_tokens import ControlTokens
from medusa_apar.tree.paragraph_tree import ParagraphNode

from .recorded import RecordedTurn

CONTROL = ControlTokens(fork_token_id=1, child_token_id=2)
EOS = 3
WRONG = 4
"""The first of 16 ids that stand for wrong draft tokens."""
FIRST = WRONG + 16
"""The id of a script's first token."""


@dataclass(frozen=True, slots=True)
class Script:
    """What a backbone is to write after a prompt.

    Places are indices of a tree-packed row; the token at place p has the id `FIRST + p`, save control tokens and EOS.

    Attributes:
        prompt: `[1, length]` the prompt.
        token_ids: `[places]` int64.
        successor: `[places + 1]` int64, the place of the next token on the path; after an end the last place, which
            has no token, and is its own successor.
        tokens: visible ones of the answer, its EOS included.
        forks: in the answer.
    """

    prompt: Tensor
    token_ids: Tensor
    successor: Tensor
    tokens: int
    forks: int

    @property
    def nowhere(self) -> int:
        """The place after every end."""
        return len(self.token_ids)

    def to(self, device: torch.device) -> Script:
        """The script on a device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in ("prompt", "token_ids", "successor")})

    def ahead(self, places: Tensor, tokens: int) -> Tensor:
        """The places so many tokens further on their paths."""
        for _ in range(tokens):
            places = self.successor[places]
        return places

    def tokens_at(self, places: Tensor) -> Tensor:
        """The tokens at places; nowhere a wrong one."""
        return torch.cat([self.token_ids, self.token_ids.new_tensor([WRONG])])[places]


def script_of(turn: RecordedTurn, prompt_tokens: int, *, forks: bool, max_depth: int | None = None) -> Script:
    """The script of a recorded turn.

    Args:
        turn: what was recorded. Its tokens are dealt out among the nodes of its paragraph tree by their characters.
        prompt_tokens: length of the prompt.
        forks: whether the answer forks wherever `extract` finds structure; else it is written as one thread.
        max_depth: of its threads, by default that of `RULES`.
    """
    rules = RULES if max_depth is None else replace(RULES, max_depth=max_depth)
    tree = (extract(turn.answer, rules) if forks else None) or ParagraphNode(turn.answer)
    return script_of_tree(tree, prompt_tokens, turn.tokens)


def script_of_tree(tree: ParagraphNode, prompt_tokens: int, tokens: int) -> Script:
    """The script of an answer of so many tokens, its EOS included, dealt out among the tree's nodes by characters."""
    nodes = list(tree.reading_order())
    counts = _shares([len(node.text) for node in nodes], tokens - 1)
    count_of = {id(node): count for node, count in zip(nodes, counts, strict=True)}
    row = TreeRow.empty()
    stack: list[tuple[ParagraphNode, list[int], int, int]] = [(tree, [WRONG] * prompt_tokens, -1, -1)]
    while stack:
        node, opening, parent, after = stack.pop()
        if after >= 0 and not opening:
            row.successor[after] = len(row)
        end = EOS if node.next_sibling is None else CONTROL.fork_token_id
        index = row.append_node([*opening, *[WRONG] * count_of[id(node)], end], parent, after)
        if node.first_child is not None and node.next_sibling is not None:
            fork = len(row) - 1
            stack += ((node.next_sibling, [], index, fork), (node.first_child, [CONTROL.child_token_id], index, fork))
    nowhere = len(row)
    token_ids = torch.tensor(row.input_ids)
    token_ids = torch.where(token_ids == WRONG, FIRST + torch.arange(nowhere), token_ids)
    return Script(
        prompt=token_ids[None, :prompt_tokens],
        token_ids=token_ids,
        successor=torch.tensor([nowhere if at == NO_SUCCESSOR else at for at in row.successor] + [nowhere]),
        tokens=sum(counts) + 1,
        forks=row.input_ids.count(CONTROL.fork_token_id),
    )


def _shares(characters: list[int], tokens: int) -> list[int]:
    """Deal tokens out by characters, at least one each; they add up to `tokens` unless there are more nodes."""
    total, seen = sum(characters), 0
    counts: list[int] = []
    for each in characters:
        seen += each
        counts.append(max(1, round(tokens * seen / total) - sum(counts)))
    return counts
