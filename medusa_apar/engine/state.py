"""Requests and their live threads: all that the engine keeps from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from medusa_apar.drafting.acceptance import RunningAcceptance
from medusa_apar.drafting.draft_tree import DraftTree
from medusa_apar.drafting.ngrams import Continuation, NgramDrafter
from medusa_apar.kv_cache.slot_pool import SlotPool
from medusa_apar.sampling.sampler import Sampler
from medusa_apar.sampling.verification import Acceptance, accept_exactly
from medusa_apar.tree.paragraph_tree import FinishReason, ParagraphTree, Thread
from medusa_apar.tree.stopping import Stopping
from medusa_apar.tree.streaming import ReadingOrderStream


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """A prompt with its sampling parameters and limits, and the paragraph tree of its answer.

    Attributes:
        tree: its threads; at first the prompt alone.
        context: the prompt as logits processors expect it, padding and all.
        limit: visible tokens of the answer; lowered where a stopping criterion is met.
        key: key of the root thread's randomness.
        sampler: picks the backbone's token after a node.
        acceptance: which draft tokens are accepted.
        eos_token_ids: tokens that end a thread.
        max_depth: threads of this depth do not fork; 1: none does.
        max_threads: threads in a step; the others wait.
        stopping: the stopping criteria, if any.
        stream: where readable text goes, if anywhere.
        ngrams: proposes draft tokens from what the request has read and written; None does not.
        cut_reason: why the answer ends at the limit.
        cached_tokens: leading tokens of the prompt whose keys and values were there when it was added.
        pool: the KV pool of its threads, while it is decoded.
        live: its live threads in schedule order; none once it has ended.
        running_acceptance: how likely its draft tokens are accepted.
    """

    tree: ParagraphTree
    context: list[int]
    limit: int
    key: int
    sampler: Sampler
    acceptance: Acceptance = accept_exactly
    eos_token_ids: frozenset[int] = frozenset()
    max_depth: int = 1
    max_threads: int = 8
    stopping: Stopping | None = None
    stream: ReadingOrderStream | None = None
    ngrams: NgramDrafter | None = None
    cut_reason: FinishReason = "length"
    cached_tokens: int = 0
    pool: SlotPool = field(init=False)
    live: list[LiveThread] = field(default_factory=list)
    running_acceptance: RunningAcceptance = field(default_factory=RunningAcceptance)

    def release(self, threads: Sequence[LiveThread]) -> None:
        """Let go of threads that have ended, and free what no other sees."""
        for live in threads:
            self.pool.keep_path(live.row, live.prefix)
            self.pool.close_row(live.row)
            self.live.remove(live)


@dataclass(slots=True, eq=False)
class LiveThread:
    """A thread that still runs.

    The last of its tokens is the pending one: sampled, keys and values not yet computed. A root thread that waits for
    its prefill has none.

    Attributes:
        request: whose thread it is.
        index: its place in `request.tree.threads`.
        path: ordinals of the forks that lead to it; sorts parents before children, children in reading order.
        row: its row of `pool.visible`.
        key: key of its randomness.
        computed: leading tokens whose keys and values its row sees.
        forks: children opened so far.
        draft_tree: what the heads propose after the pending token.
        continuation: what n-grams proposed there for the last step.
    """

    request: Request
    index: int
    path: tuple[int, ...]
    row: int
    key: int
    computed: int = 0
    forks: int = 0
    draft_tree: DraftTree | None = None
    continuation: Continuation | None = None

    @property
    def thread(self) -> Thread:
        """The thread's tokens."""
        return self.request.tree.threads[self.index]

    @property
    def pool(self) -> SlotPool:
        """The KV pool that its slots lie in."""
        return self.request.pool

    @property
    def may_fork(self) -> bool:
        """Whether it may open children."""
        return self.thread.depth < self.request.max_depth

    @property
    def awaits_first_token(self) -> bool:
        """Whether its prompt is computed and nothing is sampled after it."""
        return not self.uncomputed and len(self.thread.token_ids) == self.thread.prompt_length

    @property
    def prefix(self) -> list[int]:
        """Its computed tokens that a prompt may begin with: none of a child's."""
        return [] if self.path else self.request.tree.unforked_token_ids[: self.computed]

    @property
    def uncomputed(self) -> int:
        """Tokens before the pending one whose keys and values have to be computed first."""
        thread = self.thread
        return len(thread.token_ids) - (len(thread.token_ids) > thread.prompt_length) - self.computed
