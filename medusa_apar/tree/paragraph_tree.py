"""The paragraph tree: a response as text pieces, and as the threads that decoded it.

Source: APAR (Liu et al. 2024, arXiv 2401.06761), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from .control_tokens import ControlTokens

FinishReason = Literal["eos", "stop", "length", "context"]


@dataclass(slots=True)
class ParagraphNode:
    """A piece of text in a paragraph tree.

    A node has a first child (its details) and a next sibling, both or neither.
    """

    text: str
    first_child: ParagraphNode | None = None
    next_sibling: ParagraphNode | None = None

    def __post_init__(self) -> None:
        if (self.first_child is None) != (self.next_sibling is None):
            raise ValueError("a paragraph node has a first child and a next sibling, both or neither")

    def reading_order(self) -> Iterator[ParagraphNode]:
        """Yield this node, its first child's subtree, its next sibling's subtree."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            if node.first_child is not None and node.next_sibling is not None:
                stack += (node.next_sibling, node.first_child)


@dataclass(slots=True)
class Thread:
    """One linear context: the prompt, the inherited path, and the tokens decoded on it.

    Attributes:
        token_ids: prompt, inherited path and own tokens, with control tokens and EOS; unpadded.
        prompt_length: tokens of the row's prompt, the same for every thread of the row.
        own_start: index of the first own token. For a child this is its injected `[Child]`,
            so `token_ids[own_start - 1]` is the `[Fork]` that opened it.
        parent: index of the parent in `ParagraphTree.threads`; None for the root thread.
        depth: 1 for the root thread, the parent's depth + 1 for a child.
        finish_reason: `eos`, `stop`, `length` or `context`; None while the thread runs.
        steps: in which step each own token was chosen, a child's `[Child]` when its `[Fork]` was accepted; 0 is that of
            the prompt.
    """

    token_ids: list[int]
    prompt_length: int
    own_start: int
    parent: int | None = None
    depth: int = 1
    finish_reason: FinishReason | None = None
    steps: list[int] = field(default_factory=list, compare=False)

    @property
    def own_token_ids(self) -> list[int]:
        """The tokens that this thread wrote, its `[Child]` included."""
        return self.token_ids[self.own_start :]


class Segment(NamedTuple):
    """Visible tokens `threads[thread].token_ids[start:end]`, up to a fork or to the thread's end (`tail`)."""

    thread: int
    start: int
    end: int
    tail: bool


@dataclass(slots=True)
class ParagraphTree:
    """The threads of one answer and the order in which to read them.

    Attributes:
        threads: the root thread first; a child comes after its parent.
        fork_token_id, child_token_id: the control tokens; None where the backbone has none.
        max_depth: the depth at which `[Fork]` is forbidden.
    """

    threads: list[Thread]
    fork_token_id: int | None
    child_token_id: int | None
    max_depth: int
    _children: list[list[int]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self._children = [[] for _ in self.threads]
        for index, thread in enumerate(self.threads):
            if thread.parent is not None:
                self._children[thread.parent].append(index)

    @staticmethod
    def of_prompt(prompt: Sequence[int], control: ControlTokens | None, max_depth: int) -> ParagraphTree:
        """A root thread that holds a prompt."""
        return ParagraphTree(
            [Thread(list(prompt), len(prompt), len(prompt))],
            None if control is None else control.fork_token_id,
            None if control is None else control.child_token_id,
            max_depth,
        )

    @property
    def nodes(self) -> list[tuple[int, int, int]]:
        """`(thread, start, end)` spans in reading order, without control tokens; joined, they are the answer."""
        return [(s.thread, s.start, s.end) for s in self.segments() if s.end > s.start]

    @property
    def unforked_token_ids(self) -> list[int]:
        """The prompt and the answer's text up to the first fork."""
        end = self.threads[1].own_start - 1 if len(self.threads) > 1 else None
        return self.threads[0].token_ids[:end]

    @property
    def complete(self) -> bool:
        """Whether every thread has ended."""
        return all(thread.finish_reason is not None for thread in self.threads)

    def open_child(self, parent: int, own_start: int, step: int) -> int:
        """Add the child whose `[Fork]` is right before index `own_start` of the parent; return its index."""
        assert self.child_token_id is not None
        above = self.threads[parent]
        context = [*above.token_ids[:own_start], self.child_token_id]
        self.threads.append(Thread(context, above.prompt_length, own_start, parent, above.depth + 1, steps=[step]))
        self._children.append([])
        self._children[parent].append(len(self.threads) - 1)
        return len(self.threads) - 1

    def segments(self) -> Iterator[Segment]:
        """The segments of all threads in reading order, empty ones too.

        Of the EOS tokens only the root's is visible: it ends the answer.
        """
        yield from self._segments_of(0)

    def _segments_of(self, index: int) -> Iterator[Segment]:
        thread = self.threads[index]
        start = thread.own_start if thread.parent is None else thread.own_start + 1
        for child in self._children[index]:
            opened_at = self.threads[child].own_start
            yield Segment(index, start, opened_at - 1, tail=False)
            yield from self._segments_of(child)
            start = opened_at
        end = len(thread.token_ids)
        hidden_eos = thread.finish_reason == "eos" and thread.parent is not None
        pending_fork = end > start and thread.token_ids[-1] == self.fork_token_id
        yield Segment(index, start, end - (hidden_eos or pending_fork), tail=True)

    def visible_tokens(self) -> int:
        """Visible tokens decoded so far."""
        return sum(segment.end - segment.start for segment in self.segments())

    def answer_token_ids(self) -> list[int]:
        """The answer in reading order, without control tokens."""
        return [token for thread, start, end in self.nodes for token in self.threads[thread].token_ids[start:end]]

    def threads_after(self, limit: int) -> list[int]:
        """Threads whose next token comes after the first `limit` visible tokens in reading order."""
        after, visible = [], 0
        for segment in self.segments():
            visible += segment.end - segment.start
            if segment.tail and visible >= limit:
                after.append(segment.thread)
        return after

    def trimmed(self, limit: int, reason: FinishReason = "length") -> ParagraphTree:
        """The tree cut after its first `limit` visible tokens in reading order; cut threads end with `reason`."""
        room = limit
        kept: list[int] = []
        cut: Segment | None = None
        for segment in self.segments():
            if segment.thread not in kept:
                kept.append(segment.thread)
            if segment.end - segment.start >= room:
                cut = segment._replace(end=segment.start + room)
                break
            room -= segment.end - segment.start
        root = self.threads[0]
        if cut is None or (cut.thread == 0 and cut.end == len(root.token_ids) and root.finish_reason is not None):
            return self
        kept.sort()
        ends = {cut.thread: cut.end}
        below = self.threads[cut.thread]
        while below.parent is not None:
            ends[below.parent] = below.own_start
            below = self.threads[below.parent]
        threads = []
        for index in kept:
            thread = self.threads[index]
            token_ids = thread.token_ids[: ends.get(index)]
            threads.append(
                Thread(
                    token_ids=token_ids,
                    prompt_length=thread.prompt_length,
                    own_start=thread.own_start,
                    parent=None if thread.parent is None else kept.index(thread.parent),
                    depth=thread.depth,
                    finish_reason=reason if index in ends else thread.finish_reason,
                    steps=thread.steps[: len(token_ids) - thread.own_start],
                )
            )
        return ParagraphTree(threads, self.fork_token_id, self.child_token_id, self.max_depth)
