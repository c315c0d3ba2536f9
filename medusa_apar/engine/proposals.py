"""What is proposed after a thread's pending token, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medusa_apar.drafting.draft_tree import StepNodes, ThreadDraft

from .state import LiveThread


def draft_of(live: LiveThread) -> ThreadDraft:
    """What the heads and the n-grams propose after a thread's pending token."""
    thread, ngrams = live.thread, live.request.ngrams
    if ngrams is not None:
        start = 0 if thread.parent is None else thread.own_start
        live.continuation = ngrams.propose(live.index, thread.token_ids, start)
    position = len(thread.token_ids) - 1
    return ThreadDraft(thread.token_ids[-1], position, live.may_fork, live.draft_tree, live.continuation)


def update_acceptance(
    live: LiveThread, nodes: StepNodes, number: int, path: Sequence[int], tokens: Sequence[int]
) -> None:
    """Take account of what a step accepted.

    Args:
        live: the thread.
        nodes: of the step.
        number: the thread's, in the step.
        path: its accepted nodes, the pending token first.
        tokens: that it writes for them.
    """
    if live.draft_tree is not None:
        carried = int(np.count_nonzero(nodes.is_from_heads & (nodes.thread == number)))
        accepted = int(np.count_nonzero(nodes.is_from_heads[[*path]]))
        live.request.running_acceptance.update(live.draft_tree, carried, accepted)
    if live.request.ngrams is not None and live.continuation is not None:
        live.request.ngrams.update(live.continuation, tokens)
