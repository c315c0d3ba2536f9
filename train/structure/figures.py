"""What a paragraph tree promises: how many threads write it, and in how many steps at best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medusa_apar.tree.paragraph_tree import ParagraphNode


@dataclass(frozen=True, slots=True)
class TreeFigures:
    """Of one response.

    Attributes:
        tokens: that plain decoding chooses: those of the text, and EOS.
        steps: tokens on the longest path, `[Fork]` and EOS among them: the steps of a decoder without heads that has
            room for every thread.
        longest: tokens of the longest node, and its `[Fork]` or EOS: steps if no other node stood on its path.
        threads: that write it.
        depth: of the deepest thread; the main one has depth 1.
    """

    tokens: int
    steps: int
    longest: int
    threads: int
    depth: int

    @staticmethod
    def of(tree: ParagraphNode | None, starts: Sequence[int]) -> TreeFigures:
        """The figures of a tree, or of an unstructured response.

        Args:
            tree: of the response.
            starts: where in the text its tokens start, rising.
        """
        tokens = len(starts) + 1
        if tree is None:
            return TreeFigures(tokens, tokens, tokens, 1, 1)
        bounds = np.cumsum([0, *(len(node.text) for node in tree.reading_order())])
        longest = int(np.diff(np.searchsorted(starts, bounds)).max()) + 1
        steps, threads, depth, _ = _measure(tree, 0, np.asarray(starts))
        return TreeFigures(tokens, steps, longest, threads, depth)


def _measure(node: ParagraphNode, at: int, starts: np.ndarray) -> tuple[int, int, int, int]:
    """Steps, threads and depth of the tree below a node whose text starts at a place, and where it ends."""
    path, steps, threads, depth = 0, 0, 1, 1
    while True:
        end = at + len(node.text)
        path += int(np.searchsorted(starts, end) - np.searchsorted(starts, at)) + 1  # and [Fork] or EOS
        at = end
        if node.first_child is None or node.next_sibling is None:
            return max(steps, path), threads, depth, at
        child_steps, child_threads, child_depth, at = _measure(node.first_child, at, starts)
        steps, threads, depth = max(steps, path + child_steps), threads + child_threads, max(depth, 1 + child_depth)
        node = node.next_sibling
