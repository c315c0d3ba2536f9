"""How many KV pools an engine has, how large they are, and what lies in which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from medusa_apar.kv_cache.capacity import slots_that_fit
from medusa_apar.kv_cache.placement import Flags, Ints, Placement
from medusa_apar.kv_cache.slot_pool import EXTENT_BUCKET, SlotPool
from medusa_apar.runner.model_runner import ModelRunner

from .state import LiveThread, Request

_COMMON_ANSWER = 512
"""Tokens for which a pool has room from the beginning; it grows where an answer is longer."""


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What there is room for.

    Attributes:
        runner: of the model whose keys and values are kept.
        slots: of all pools together.
        kind: of pool.
    """

    runner: ModelRunner
    slots: int
    kind: type[SlotPool] = SlotPool

    @staticmethod
    def of(runner: ModelRunner, max_slots: int | None = None) -> PoolPlan:
        """So many slots; by default what the device can hold."""
        return PoolPlan(runner, slots_that_fit(runner.model, runner.kv_dtype) if max_slots is None else max_slots)

    def pools(self, requests: int, longest: int, lengths: Sequence[tuple[int, int]] = ()) -> list[SlotPool]:
        """A pool for each request where all together can hold their longest paths, else one that they share.

        Args:
            requests: that are decoded together.
            longest: slots of the longest path of any.
            lengths: of those that are known, tokens of the prompt and limit of the answer.
        """
        separate = self.runner.separates_pools and self.slots >= longest * requests
        count = requests if separate else 1
        capacity = max(_first_capacity(lengths[first::count]) for first in range(count))
        return self.runner.new_pools(count, capacity, self.slots // count, self.kind)


def _first_capacity(lengths: Sequence[tuple[int, int]]) -> int:
    """Slots for prompts and for answers of a common length."""
    wanted = sum(prompt + min(limit, _COMMON_ANSWER) for prompt, limit in lengths) + EXTENT_BUCKET
    return -(-wanted // EXTENT_BUCKET) * EXTENT_BUCKET - 1  # with slot 0, whole buckets


def place(
    pools: Sequence[SlotPool], threads: Sequence[LiveThread], owner: Ints, positions: Ints, ancestors: Flags
) -> Placement:
    """Slots for nodes, each in the pool of its thread.

    Args:
        pools: all of them.
        threads: that have nodes.
        owner: `[nodes]`, the number of each node's thread.
        positions: `[nodes]` path depths.
        ancestors: `[nodes, nodes]`; (i, j) is true where node j is i or above i.
    """
    pool_of = np.array([thread.pool.index for thread in threads])
    rows = np.array([thread.row for thread in threads])
    return Placement.acquire(pools, pool_of[owner], rows=rows[owner], positions=positions, ancestors=ancestors)


def begin(request: Request, pools: Sequence[SlotPool], running: Sequence[list[Request]]) -> bool:
    """Let a request run in the pool with the least load, unless it waits for the beginning of its prompt.

    Args:
        request: that does not run yet.
        pools: all of them.
        running: the requests of each; the request joins those of its pool.

    Returns:
        False while the beginning is being computed for another request.
    """
    prompt = request.tree.threads[0].token_ids
    roots = [other.live[0] for other in chain(*running) if not other.live[0].path]
    computing = [root.thread.token_ids for root in roots if root.uncomputed]
    if all(pool.awaits(prompt, computing) for pool in pools):
        return False
    pairs = zip(pools, running, strict=True)
    request.pool, sharing = min(pairs, key=lambda pair: _load(pair[0], pair[1], prompt))
    row, request.cached_tokens = request.pool.begin_path(prompt, pools)
    request.live = [LiveThread(request, 0, path=(), row=row, key=request.key, computed=request.cached_tokens)]
    sharing.append(request)
    return True


def _load(pool: SlotPool, requests: Sequence[Request], prompt: Sequence[int]) -> tuple[int, int, int]:
    """Orders pools for a prompt: by running requests, then by cached tokens of the prompt, then by slots held.

    Fewer than `EXTENT_BUCKET` cached tokens do not count: to compute them takes about as long as a step.
    """
    shared = pool.shared_prefix(prompt)
    return len(requests), -shared if shared >= EXTENT_BUCKET else 0, pool.held
