"""Timelines: what each thread wrote, and in which step."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from medusa_apar.eval.speed.timeline import ThreadLine, threads_by_step, timeline
from medusa_apar.tree.paragraph_tree import ParagraphTree, Thread

FORK, CHILD = 4, 5


def tree(tokenizer: PreTrainedTokenizerFast) -> ParagraphTree:
    """A root of two letters, a `[Fork]` and two more letters; its child writes one letter."""
    a, b, c, d, e = tokenizer("abcde", add_special_tokens=False).input_ids
    end = tokenizer.eos_token_id
    root = [a, a, b, FORK, c, d, end]
    return ParagraphTree(
        [
            Thread(root, 1, 1, None, 1, "eos", steps=[0, 1, 1, 2, 2, 3]),
            Thread([*root[:4], CHILD, e, end], 1, 4, 0, 2, "eos", steps=[1, 2, 3]),
        ],
        FORK, CHILD, max_depth=2,
    )  # fmt: skip


def test_a_line_has_what_its_thread_wrote_and_when(tokenizer: PreTrainedTokenizerFast) -> None:
    root, child = timeline(tree(tokenizer), tokenizer)
    assert root.tokens == ((0, 1), (1, 2), (2, 2), (3, 1))
    assert child.tokens == ((2, 1), (3, 1)), "the injected [Child] is nobody's choice"
    assert child.text == "e"
    assert (root.parent, child.parent, child.depth) == (None, 0, 2)
    assert (child.opened, child.ended) == (2, 3)


def test_threads_are_counted_step_by_step() -> None:
    lines = [ThreadLine(None, 1, "", ((0, 1), (1, 2), (2, 1), (4, 1))), ThreadLine(0, 2, "", ((2, 3), (3, 1)))]
    assert threads_by_step(lines) == [1, 2, 1, 1]
    assert threads_by_step([]) == []
