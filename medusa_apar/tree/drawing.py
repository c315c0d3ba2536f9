"""A paragraph tree drawn on the terminal."""

from __future__ import annotations

from rich.text import Text
from rich.tree import Tree
from transformers import PreTrainedTokenizerBase

from .paragraph_tree import ParagraphTree

_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")


def draw(tree: ParagraphTree, tokenizer: PreTrainedTokenizerBase) -> Tree:
    """Draw an answer: every thread with its text, each child under the text that forked it."""
    drawing = Tree(_heading(tree, 0))
    branches = {0: drawing}
    latest = drawing
    for segment in tree.segments():
        if segment.thread not in branches:
            branches[segment.thread] = latest.add(_heading(tree, segment.thread))
        token_ids = tree.threads[segment.thread].token_ids[segment.start : segment.end]
        text = str(tokenizer.decode(token_ids, skip_special_tokens=True)).strip()
        if text:
            latest = branches[segment.thread].add(Text(text))
    return drawing


def _heading(tree: ParagraphTree, index: int) -> Text:
    thread = tree.threads[index]
    name = "root thread" if thread.parent is None else f"thread {index}"
    text = f"{name}: {len(thread.own_token_ids)} tokens, {thread.finish_reason}"
    return Text(text, style=f"bold {_COLOURS[index % len(_COLOURS)]}")
