"""What each thread of an answer wrote, and in which step: the picture of threads that fork and finish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from transformers import PreTrainedTokenizerBase

from medusa_apar.tree.paragraph_tree import ParagraphTree


@dataclass(frozen=True, slots=True)
class ThreadLine:
    """One thread's line in a timeline.

    Attributes:
        parent: index of the thread that forked it; None for the root.
        depth: 1 for the root.
        text: what it wrote itself.
        tokens: how many tokens it chose in which step, as pairs of step and tokens, steps rising. Control tokens that
            it wrote and its EOS count, the injected `[Child]` does not; step 0 is that of the prompt.
    """

    parent: int | None
    depth: int
    text: str
    tokens: tuple[tuple[int, int], ...]

    @property
    def opened(self) -> int:
        """The step of its first token."""
        return self.tokens[0][0] if self.tokens else 0

    @property
    def ended(self) -> int:
        """The step of its last token."""
        return self.tokens[-1][0] if self.tokens else 0


def timeline(tree: ParagraphTree, tokenizer: PreTrainedTokenizerBase) -> tuple[ThreadLine, ...]:
    """The lines of an answer's threads, in their order in the tree."""
    lines = []
    for thread in tree.threads:
        injected = 0 if thread.parent is None else 1
        own = thread.own_token_ids[injected:]
        lines.append(
            ThreadLine(
                thread.parent,
                thread.depth,
                str(tokenizer.decode(own, skip_special_tokens=True)).strip(),
                tuple((step, len(list(group))) for step, group in groupby(thread.steps[injected:])),
            )
        )
    return tuple(lines)


def threads_by_step(lines: Sequence[ThreadLine]) -> list[int]:
    """How many threads chose tokens in each step, from step 1."""
    steps = [step for line in lines for step, _ in line.tokens]
    counts = [0] * max(steps, default=0)
    for step in steps:
        if step:
            counts[step - 1] += 1
    return counts
