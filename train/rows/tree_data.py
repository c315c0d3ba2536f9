"""Tree-packed rows: whole paragraph trees in one training row, exact under a tree attention mask.

A row holds the prompt and every node of a response, laid out in reading order; several trees may share
a row. A token attends to its own path alone, its position is its depth on that path, and its successor
is the next token on the path: after `[Fork]` that is the next sibling's first token. So the loss of a
row is, token for token, the loss of its linear paths (design invariant: training equals decoding).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from medusa_apar.tree.control_tokens import ControlTokens
from medusa_apar.tree.paragraph_tree import ParagraphNode, ParagraphTree

from ..command_line import InputError
from ..structure import RULES, Rules, extract
from .bad_rows import BadRowError, BadRows
from .conversations import Message, Response
from .piece_tokens import piece_tokenizer

IGNORE_INDEX = -100
"""Label of a position without loss, as in transformers."""

NO_SUCCESSOR = -1


@dataclass(frozen=True, slots=True)
class TreeRow:
    """One paragraph tree, or several, as flat lists of equal length.

    Attributes:
        input_ids: tokens, ancestors before descendants.
        position_ids: depth of each token on its path, from 0.
        successor: index in the row of the next token on the path, or `NO_SUCCESSOR`.
        node: index of each token's paragraph node.
        node_parent: for each paragraph node, the node before it on the path; -1 at the root.
        prompt: whether the token belongs to the prompt.
    """

    input_ids: list[int]
    position_ids: list[int]
    successor: list[int]
    node: list[int]
    node_parent: list[int]
    prompt: list[bool]

    def __len__(self) -> int:
        return len(self.input_ids)

    @staticmethod
    def empty() -> TreeRow:
        return TreeRow([], [], [], [], [], [])

    def extend(self, other: TreeRow) -> None:
        """Append another row's trees; they do not see each other."""
        tokens, nodes = len(self.input_ids), len(self.node_parent)
        self.input_ids.extend(other.input_ids)
        self.position_ids.extend(other.position_ids)
        self.successor.extend(s if s == NO_SUCCESSOR else s + tokens for s in other.successor)
        self.node.extend(n + nodes for n in other.node)
        self.node_parent.extend(p if p < 0 else p + nodes for p in other.node_parent)
        self.prompt.extend(other.prompt)

    def append_node(self, token_ids: Sequence[int], parent: int, after: int, *, prompt_length: int = 0) -> int:
        """Append one paragraph node whose path goes on from the token at index `after`; return its index."""
        start, node = len(self.input_ids), len(self.node_parent)
        depth = 0 if after < 0 else self.position_ids[after] + 1
        self.input_ids.extend(token_ids)
        self.position_ids.extend(range(depth, depth + len(token_ids)))
        self.successor.extend([*range(start + 1, start + len(token_ids)), NO_SUCCESSOR])
        self.node.extend([node] * len(token_ids))
        self.node_parent.append(parent)
        self.prompt.extend(i < prompt_length for i in range(len(token_ids)))
        return node


def tree_row(
    prompt_ids: Sequence[int],
    tree: ParagraphNode,
    tokenizer: PreTrainedTokenizerBase,
    control: ControlTokens,
) -> TreeRow:
    """Lay a paragraph tree out after its prompt. Every path ends with EOS."""
    row = TreeRow.empty()
    continuation = piece_tokenizer(tokenizer)
    stack = [(tree, list(prompt_ids), -1, -1)]
    while stack:
        piece, opening, parent, after = stack.pop()
        if after >= 0 and not opening:
            row.successor[after] = len(row)
        if after < 0:
            text_ids = tokenizer(piece.text, add_special_tokens=False, split_special_tokens=True).input_ids
        else:
            text_ids = continuation(piece.text)
        end = tokenizer.eos_token_id if piece.next_sibling is None else control.fork_token_id
        prompt_length = len(opening) if after < 0 else 0
        node = row.append_node([*opening, *text_ids, end], parent, after, prompt_length=prompt_length)
        if piece.first_child is not None and piece.next_sibling is not None:
            fork = len(row) - 1
            stack.append((piece.next_sibling, [], node, fork))
            stack.append((piece.first_child, [control.child_token_id], node, fork))
    return row


def decoded_row(tree: ParagraphTree) -> TreeRow:
    """Lay out a decoded tree, prompt and all. Paths end where they ended when they were decoded."""
    row = TreeRow.empty()
    places: list[list[int]] = []  # of each thread's tokens in the row
    for index, thread in enumerate(tree.threads):
        own: list[int] = [] if thread.parent is None else places[thread.parent][: thread.own_start]
        forks = [child.own_start for child in tree.threads if child.parent == index]
        for end in [*forks, len(thread.token_ids)]:
            start, after = len(own), own[-1] if own else -1
            if start == end:
                continue
            if start > thread.own_start:
                row.successor[after] = len(row)
            own += range(len(row), len(row) + end - start)
            parent = row.node[after] if after >= 0 else -1
            prompt_length = thread.prompt_length if after < 0 else 0
            row.append_node(thread.token_ids[start:end], parent, after, prompt_length=prompt_length)
        places.append(own)
    return row


def path_mask(node: Tensor, node_parent: Tensor) -> Tensor:
    """Who may attend to whom in a row.

    Args:
        node: `[tokens]` paragraph node of each token.
        node_parent: `[nodes]` parent of each node, always of a smaller index; -1 at roots.

    Returns:
        `[tokens, tokens]` boolean; entry (i, j) is true where token j is i or stands before it on its path.
    """
    on_path = torch.eye(len(node_parent), dtype=torch.bool)
    for child, parent in enumerate(node_parent.tolist()):
        if parent >= 0:
            on_path[child] |= on_path[parent]
    return on_path[node][:, node].tril()


def places_ahead(row: TreeRow, ahead: int) -> list[int]:
    """For each position the index of the token `ahead` successors on, or `NO_SUCCESSOR` where the path has ended."""
    places = list(range(len(row)))
    for _ in range(ahead):
        places = [row.successor[at] if at != NO_SUCCESSOR else NO_SUCCESSOR for at in places]
    return places


def next_token_labels(row: TreeRow, ahead: int = 1) -> list[int]:
    """Label of each position: the token `ahead` successors on, or `IGNORE_INDEX` where there is no loss."""
    return [
        IGNORE_INDEX if at == NO_SUCCESSOR or row.prompt[at] else row.input_ids[at] for at in places_ahead(row, ahead)
    ]


def pack(rows: Iterable[TreeRow], max_length: int) -> list[TreeRow]:
    """Join trees into rows of at most `max_length` tokens, longest first into the fullest row that has room."""
    packed: list[TreeRow] = []
    room: dict[int, list[TreeRow]] = {}
    for row in sorted(rows, key=len, reverse=True):
        fit = min((free for free, candidates in room.items() if free >= len(row) and candidates), default=None)
        if fit is None:
            target, free = TreeRow.empty(), max_length
            packed.append(target)
        else:
            target, free = room[fit].pop(), fit
        target.extend(row)
        room.setdefault(free - len(row), []).append(target)
    return packed


class PackedRows(Dataset[TreeRow]):
    """Tree-packed rows."""

    def __init__(self, rows: list[TreeRow]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TreeRow:
        return self.rows[index]


class TreeDataset(PackedRows):
    """Tree-packed rows of responses, structured and unstructured in a given proportion.

    Args:
        responses: prompts and answers.
        tokenizer: has a chat template, an EOS and the control tokens.
        max_length: tokens in a row; longer trees are left out and counted.
        rules: how responses are split.
        structured_share: share of structured trees among all but flat ones; the larger class is thinned to reach it.
            None keeps everything.
        flat_share: share of the responses with a structure that are learned flat, as text without forks.
        seed: of the thinning, and of what is flat.
        bad_rows: what was left out before.

    Attributes:
        bad_rows: what was left out, by reason.
        found: what there was of each kind.
        structured, flat, unstructured: how many trees of each kind went in.
        thinned: how many were left out for `structured_share`.
    """

    def __init__(
        self,
        responses: Iterable[Response],
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        rules: Rules = RULES,
        structured_share: float | None = None,
        flat_share: float = 0.0,
        seed: int = 0,
        bad_rows: BadRows | None = None,
    ) -> None:
        control = ControlTokens.of_tokenizer(tokenizer)
        self.bad_rows = BadRows() if bad_rows is None else bad_rows
        structured: list[TreeRow] = []
        flat: list[TreeRow] = []
        unstructured: list[TreeRow] = []
        random = Random(seed)
        for response in responses:
            tree = extract(response.response, rules)
            is_flat = tree is not None and random.random() < flat_share
            try:
                prompt_ids = prompt_token_ids(tokenizer, response)
                written = ParagraphNode(response.response) if tree is None or is_flat else tree
                row = tree_row(prompt_ids, written, tokenizer, control)
                if len(row) > max_length:
                    raise BadRowError(f"longer than {max_length} tokens")
            except BadRowError as error:
                self.bad_rows.add(str(error), response.place)
            else:
                (flat if is_flat else structured if tree else unstructured).append(row)
        self.found = f"{len(structured) + len(flat)} structured and {len(unstructured)} unstructured responses"
        found = len(structured) + len(unstructured)
        if structured_share is not None:
            structured, unstructured = _thin(structured, unstructured, structured_share, random)
        self.thinned = found - len(structured) - len(unstructured)
        self.structured, self.flat, self.unstructured = len(structured), len(flat), len(unstructured)
        super().__init__(pack([*structured, *flat, *unstructured], max_length))


def prompt_token_ids(tokenizer: PreTrainedTokenizerBase, response: Response) -> list[int]:
    """The tokens before an answer, as the chat template has them.

    Raises:
        BadRowError: the chat template refuses the messages or the tools, or leaves the system message or the tools out.
    """
    question = response.question
    token_ids = template_token_ids(tokenizer, question, "it")
    if question[0]["role"] == "system":
        try:
            without_system = template_token_ids(tokenizer, question[1:], "it")
        except BadRowError:
            without_system = []  # a template that asks for a system message
        if without_system == token_ids:
            raise BadRowError("the chat template leaves out the system message")
    if not response.tools:
        return token_ids
    with_tools = template_token_ids(tokenizer, question, "`tools`", tools=list(response.tools))
    if with_tools == token_ids:
        raise BadRowError("the chat template leaves out `tools`")
    return with_tools


def template_token_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], what: str = "it", **options: Any
) -> list[int]:
    """The tokens of messages, with the answer opened, as the chat template has them.

    Args:
        tokenizer: of a chat model.
        messages: the last one is the user's.
        what: of the row the template may refuse.
        **options: for `apply_chat_template`.

    Raises:
        BadRowError: the chat template refuses them.
    """
    try:
        token_ids: Any = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_dict=False, **options
        )
    except Exception as error:  # a template calls methods of what it is given, and may fail in any way
        kind = "" if type(error) is TemplateError else f"{type(error).__name__}: "
        raise BadRowError(f"the chat template refuses {what}: {kind}{error}") from error
    return list(token_ids)


def _thin(
    structured: list[TreeRow], unstructured: list[TreeRow], share: float, random: Random
) -> tuple[list[TreeRow], list[TreeRow]]:
    if not 0 <= share <= 1:
        raise InputError(f"structured_share={share} is not between 0 and 1")
    total = min(
        len(structured) / share if share > 0 else float("inf"),
        len(unstructured) / (1 - share) if share < 1 else float("inf"),
    )
    return (
        random.sample(structured, min(len(structured), round(total * share))),
        random.sample(unstructured, min(len(unstructured), round(total * (1 - share)))),
    )


@dataclass(frozen=True, slots=True)
class TreeCollator:
    """Batch tree-packed rows for a causal LM that takes a 4-D attention mask.

    Args:
        pad_token_id: fills rows up to `length`.
        length: fixed row length in tokens; None pads to the longest row.
        label_heads: also give, `[batch, heads, length]` for this many heads, `head_labels` and `head_places`: the place
            in the row from which the backbone itself chooses the label. And `lengths`, the tokens of each row.
    """

    pad_token_id: int
    length: int | None = None
    label_heads: int = 0

    @staticmethod
    def of(tokenizer: PreTrainedTokenizerBase, *, length: int | None = None, label_heads: int = 0) -> TreeCollator:
        """One that pads with a tokenizer's padding token, or with EOS where it has none."""
        pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        return TreeCollator(pad, length, label_heads)

    def __call__(self, rows: Sequence[TreeRow]) -> dict[str, Any]:
        length = self.length or max(map(len, rows))
        batch: dict[str, list[Tensor]] = {"input_ids": [], "position_ids": [], "attention_mask": [], "labels": []}
        head_labels: list[Tensor] = []
        head_places: list[Tensor] = []
        for row in rows:
            pad = length - len(row)
            pad_node = len(row.node_parent)
            batch["input_ids"].append(torch.tensor(row.input_ids + [self.pad_token_id] * pad))
            batch["position_ids"].append(torch.tensor(row.position_ids + [0] * pad))
            batch["labels"].append(torch.tensor(next_token_labels(row) + [IGNORE_INDEX] * pad))
            mask = path_mask(torch.tensor(row.node + [pad_node] * pad), torch.tensor([*row.node_parent, -1]))
            batch["attention_mask"].append(mask[None])
            head_labels.append(
                torch.tensor(
                    [next_token_labels(row, ahead=k + 2) + [IGNORE_INDEX] * pad for k in range(self.label_heads)]
                )
            )
            places = [places_ahead(row, ahead=k + 1) + [NO_SUCCESSOR] * pad for k in range(self.label_heads)]
            head_places.append(torch.tensor(places))
        tensors = {name: torch.stack(parts) for name, parts in batch.items()}
        tensors["shift_labels"] = tensors["labels"]
        if self.label_heads:
            tensors["head_labels"] = torch.stack(head_labels)
            tensors["head_places"] = torch.stack(head_places)
            tensors["lengths"] = torch.tensor([len(row) for row in rows])
        return tensors
