"""The answer that every point's rows write: paragraphs of equal length behind short leads."""

from __future__ import annotations

from medusa_apar.tree.paragraph_tree import ParagraphNode

from ..replay.script import Script, script_of_tree
from .points import Point

PROMPT_TOKENS = 64
LEAD_TOKENS = 6
"""Of the line that announces a paragraph, in the main thread."""
LEAST_PARAGRAPH = 2


def script_of_point(point: Point, *, forks: bool) -> Script:
    """The script of each row of a point: in threads, or as one.

    Raises:
        ValueError: an answer that is too short for its threads.
    """
    paragraph = _paragraph_tokens(point)
    tree = ParagraphNode("x" * paragraph)
    if forks:
        for _ in range(point.threads - 1):
            tree = ParagraphNode("x" * LEAD_TOKENS, first_child=ParagraphNode("x" * paragraph), next_sibling=tree)
    return script_of_tree(tree, PROMPT_TOKENS, point.tokens)


def _paragraph_tokens(point: Point) -> int:
    tokens = (point.tokens - 1 - LEAD_TOKENS * (point.threads - 1)) // point.threads
    if tokens < LEAST_PARAGRAPH:
        raise ValueError(
            f"an answer of tokens={point.tokens} is too short for threads={point.threads}; "
            f"take at least {(LEAST_PARAGRAPH + LEAD_TOKENS) * point.threads} tokens, or fewer threads"
        )
    return tokens
