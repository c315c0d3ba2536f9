"""Reading order, and the cut at a limit."""

from __future__ import annotations

import pytest

from medusa_apar import ParagraphNode, ParagraphTree, Thread
from medusa_apar.tree.streaming import readable_token_ids

from ..conftest import CHILD, EOS, FORK


def tree() -> ParagraphTree:
    """Prompt 9; root 10 11 F 12 F 13 EOS; the first fork's child 20 21 EOS, the second's 30 EOS."""
    root = [9, 10, 11, FORK, 12, FORK, 13, EOS]
    return ParagraphTree(
        [
            Thread(root, 1, 1, None, 1, "eos"),
            Thread([9, 10, 11, FORK, CHILD, 20, 21, EOS], 1, 4, 0, 2, "eos"),
            Thread([9, 10, 11, FORK, 12, FORK, CHILD, 30, EOS], 1, 6, 0, 2, "eos"),
        ],
        FORK, CHILD, max_depth=2,
    )  # fmt: skip


def test_a_node_has_both_children_or_neither() -> None:
    with pytest.raises(ValueError, match="both or neither"):
        ParagraphNode("text", first_child=ParagraphNode("details"))


def test_reading_order_is_node_then_first_child_then_next_sibling() -> None:
    assert tree().answer_token_ids() == [10, 11, 20, 21, 12, 30, 13, EOS]
    assert tree().nodes == [(0, 1, 3), (1, 5, 7), (0, 4, 5), (2, 7, 8), (0, 6, 8)]


def test_an_uncut_tree_is_itself() -> None:
    whole = tree()
    assert whole.trimmed(8) is whole
    assert whole.trimmed(100) is whole


@pytest.mark.parametrize("limit", range(1, 8))
def test_a_cut_keeps_the_first_visible_tokens(limit: int) -> None:
    cut = tree().trimmed(limit)
    assert cut.answer_token_ids() == [10, 11, 20, 21, 12, 30, 13, EOS][:limit]
    for thread in cut.threads[1:]:
        assert thread.parent is not None
        parent = cut.threads[thread.parent]
        assert thread.token_ids[: thread.own_start] == parent.token_ids[: thread.own_start]
        assert parent.token_ids[thread.own_start - 1] == FORK


def test_a_cut_inside_a_child_ends_it_and_its_parent_at_the_fork() -> None:
    cut = tree().trimmed(3)
    assert [thread.token_ids for thread in cut.threads] == [[9, 10, 11, FORK], [9, 10, 11, FORK, CHILD, 20]]
    assert [thread.finish_reason for thread in cut.threads] == ["length", "length"]


def test_a_cut_right_behind_a_childs_text_does_not_depend_on_whether_its_eos_is_known() -> None:
    running = tree()
    running.threads[1].token_ids.pop()
    running.threads[1].finish_reason = None
    assert running.trimmed(4).threads == tree().trimmed(4).threads


def test_threads_after_the_limit() -> None:
    assert tree().threads_after(4) == [1, 2, 0]
    assert tree().threads_after(5) == [2, 0]
    assert tree().threads_after(9) == []


def test_text_is_readable_up_to_the_first_running_thread() -> None:
    running = tree()
    running.threads[1].finish_reason = None
    running.threads[1].token_ids.pop()
    assert readable_token_ids(running) == [10, 11, 20, 21]


def test_a_pending_fork_is_not_visible() -> None:
    pending = ParagraphTree([Thread([9, 10, FORK], 1, 1)], FORK, CHILD, max_depth=2)
    assert pending.answer_token_ids() == [10]
