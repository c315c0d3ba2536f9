"""Requests and threads while they are decoded: all that the decoding loop keeps from step to step."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from medusa_apar.drafting.draft_tree import Guesses, Scores
from medusa_apar.kv_cache.slot_pool import SlotPool
from medusa_apar.tree.paragraph_tree import FinishReason, ParagraphTree, Thread
from medusa_apar.tree.stopping import Stopping
from medusa_apar.tree.streaming import ReadingOrderStream

RECENT = 0.05
"""Weight of the last step of a thread in the means over its request, once there are many."""
HOPE = 4
"""Steps that the mean has to begin with."""


@dataclass(slots=True, eq=False)
class Request:
    """One row of a batch while it is decoded.

    Attributes:
        row: its number in the batch.
        context: its row of `input_ids`, padding and all, as logits processors expect it.
        limit: visible tokens of the answer; lowered where a stopping criterion is met.
        tree: its threads.
        key: key of the root thread's randomness.
        stopping: the stopping criteria, if any.
        stream: where readable text goes, if anywhere.
        pool: the KV pool of its threads, while it is decoded.
        live: its running threads in schedule order.
        cut_reason: why the answer ends at the limit.
        promise: `[levels, width]` how likely the heads hold the guesses behind a pending token, the best of a level
            first; running mean, None before the first guesses.
        promised: guesses of a step and thread that were to be accepted, running mean; hopeful at first.
        accepted: those that were, likewise.
        noted: how often that was noted.
    """

    row: int
    context: list[int]
    limit: int
    tree: ParagraphTree
    key: int
    stopping: Stopping | None = None
    stream: ReadingOrderStream | None = None
    pool: SlotPool = field(init=False)
    live: list[LiveThread] = field(default_factory=list)
    cut_reason: FinishReason = "length"
    promise: Scores | None = None
    promised: float = 1.0
    accepted: float = 1.0
    noted: int = 0

    @property
    def hope(self) -> Scores | None:
        """`[levels, width]` how likely guesses behind a pending token are accepted, by what became of former ones."""
        return None if self.promise is None else self.promise * min(1.0, self.accepted / self.promised)

    def note(self, guesses: Guesses, carried: int, accepted: int) -> None:
        """Take note of a thread's guesses, of how many a step carried, and of how many of these were accepted."""
        likely = np.exp(guesses.log_probs, dtype=np.float64)
        self.noted += 1
        weight = max(RECENT, 1 / (self.noted + HOPE))
        if self.promise is None or len(self.promise) < len(likely):
            self.promise = likely
        else:
            seen, deeper = self.promise[: len(likely)], self.promise[len(likely) :]
            before = seen[-1, 0]
            seen += weight * (likely > 0) * (likely - seen)
            if before > 0:
                deeper *= seen[-1, 0] / before  # given the guess above, what is not guessed now is as likely as it was
        if carried:
            promised = sum(sorted(likely.ravel().tolist(), reverse=True)[:carried])
            self.promised += weight * (promised - self.promised)
            self.accepted += weight * (accepted - self.accepted)


@dataclass(slots=True, eq=False)
class LiveThread:
    """A thread that still runs.

    The last of its tokens is the pending one: chosen, keys and values not yet computed. A root that waits for its
    prefill has none.

    Attributes:
        request: whose thread it is.
        index: its place in `request.tree.threads`.
        path: ordinals of the forks that lead to it; sorts parents before children, children in reading order.
        row: its row of `pool.visible`.
        key: key of its randomness.
        computed: leading tokens whose keys and values its row sees.
        forks: children opened so far.
        guesses: what the heads guess behind the pending token.
    """

    request: Request
    index: int
    path: tuple[int, ...]
    row: int
    key: int
    computed: int = 0
    forks: int = 0
    guesses: Guesses | None = None

    @property
    def thread(self) -> Thread:
        """The thread's tokens."""
        return self.request.tree.threads[self.index]

    @property
    def pool(self) -> SlotPool:
        """The KV pool that its slots lie in."""
        return self.request.pool

    @property
    def awaits_answer(self) -> bool:
        """Whether its prompt is computed and nothing is chosen behind it."""
        return not self.missing and len(self.thread.token_ids) == self.thread.prompt_length

    @property
    def missing(self) -> int:
        """Tokens before the pending one whose keys and values have to be computed first."""
        thread = self.thread
        return len(thread.token_ids) - (len(thread.token_ids) > thread.prompt_length) - self.computed
