"""Kept paths: a prompt begins with what earlier ones computed, and nobody waits for slots that only they hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from medusa_apar.kv_cache.prefix_cache import SPARE, PrefixCachingPool
from medusa_apar.kv_cache.slot_cache import SlotCache
from medusa_apar.kv_cache.slot_pool import SlotPool


def new_pool(max_slots: int | None = None) -> PrefixCachingPool:
    return PrefixCachingPool(SlotCache(layers=1, pools=1, capacity=64), 0, max_slots)


def compute(pool: SlotPool, row: int, count: int, start: int) -> None:
    """Let a row see so many tokens more."""
    slots = pool.acquire(count)
    pool.positions[slots] = range(start, start + count)
    pool.show(row, slots)


def answered(pool: SlotPool, tokens: Sequence[int]) -> int:
    """A request for a prompt that has come and gone; how many of its tokens were there."""
    row, shared = pool.begin_path(tokens)
    compute(pool, row, len(tokens) - shared, shared)
    pool.keep_path(row, tokens)
    pool.close_row(row)
    return shared


class PrefixMachine(RuleBasedStateMachine):
    """Random paths over a few tokens in a pool with little room, held against what every slot was written for."""

    @initialize(max_slots=st.sampled_from([24, 60, 400]))
    def open_pool(self, max_slots: int) -> None:
        self.pool = new_pool(max_slots)
        self.paths: dict[int, list[int]] = {}
        self.written: dict[int, tuple[int, ...]] = {}

    def _write(self, row: int, tokens: Sequence[int]) -> None:
        path = self.paths[row]
        slots = self.pool.acquire(len(tokens))
        assert len(slots) == len(tokens), "there was room for them"
        for slot, token in zip(slots.tolist(), tokens, strict=True):
            self.pool.positions[slot] = len(path)
            path.append(token)
            self.written[slot] = tuple(path)
        self.pool.show(row, slots)

    @rule(prompt=st.lists(st.integers(0, 1), min_size=1, max_size=12))
    def begin(self, prompt: list[int]) -> None:
        row, shared = self.pool.begin_path(prompt)
        assert shared < len(prompt), "the last token has to be computed for its logits"
        self.paths[row] = prompt[:shared]
        self._write(row, prompt[shared:][: self.pool.room])

    @precondition(lambda self: self.paths)
    @rule(data=st.data(), tokens=st.lists(st.integers(0, 1), max_size=9))
    def go_on(self, data: st.DataObject, tokens: list[int]) -> None:
        self._write(data.draw(st.sampled_from(sorted(self.paths))), tokens[: self.pool.room])

    @precondition(lambda self: self.paths)
    @rule(data=st.data(), ends=st.booleans())
    def keep(self, data: st.DataObject, ends: bool) -> None:
        row = data.draw(st.sampled_from(sorted(self.paths)))
        self.pool.keep_path(row, self.paths[row])
        if ends:
            self.pool.close_row(row)
            del self.paths[row]

    @invariant()
    def a_row_sees_its_path_and_nothing_else(self) -> None:
        for row, path in self.paths.items():
            seen = sorted(self.written[slot] for slot in np.flatnonzero(self.pool.visible[row]).tolist())
            assert seen == sorted(tuple(path[: length + 1]) for length in range(len(path)))

    @invariant()
    def slots_are_those_of_running_and_kept_paths(self) -> None:
        pool = self.pool
        running = pool.visible[[*self.paths]].any(axis=0)
        assert pool.held == np.count_nonzero(pool.visible.any(axis=0))
        assert pool.free + pool.held == pool.capacity <= pool.max_slots
        assert pool.room == pool.max_slots - np.count_nonzero(running)
        assert pool.kept == pool.held - np.count_nonzero(running)
        assert pool.extent > max(np.flatnonzero(running), default=0)


PrefixMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPrefixes = PrefixMachine.TestCase


def test_a_conversation_goes_on_where_it_was() -> None:
    pool = new_pool()
    assert answered(pool, range(40)) == 0
    assert answered(pool, range(60)) == 40
    assert answered(pool, range(60)) == 59
    assert pool.held == 60


def test_prompts_share_their_beginning_alone() -> None:
    pool = new_pool()
    system = [*range(30)]
    answered(pool, [*system, 100, 101])
    assert answered(pool, [*system, 200, 201]) == 30
    assert answered(pool, [1, *system]) == 0


def test_the_least_recently_used_path_goes_first() -> None:
    pool = new_pool(max_slots=120)
    one, two, three = ([start + number for number in range(50)] for start in (0, 100, 200))
    answered(pool, one)
    answered(pool, two)
    answered(pool, one)
    answered(pool, three)  # takes the place of `two`
    assert pool.shared_prefix(one) == 49
    assert pool.shared_prefix(two) == 0


def test_a_running_request_keeps_its_slots_whoever_else_wants_some() -> None:
    pool = new_pool(max_slots=100)
    row, _ = pool.begin_path([*range(60)])
    compute(pool, row, 60, 0)
    pool.keep_path(row, [*range(60)])
    assert pool.room == 40
    assert len(pool.acquire(41)) == 40
    assert np.count_nonzero(pool.visible[row]) == 60


def test_when_a_request_begins_no_more_is_kept_than_requests_hold() -> None:
    pool = new_pool()
    for start in range(10):
        answered(pool, [1000 * start + number for number in range(200)])
        assert pool.kept <= SPARE + 200
    row, _ = pool.begin_path([*range(50_000, 50_300)])
    assert 0 < pool.kept <= 300
    pool.close_row(row)


def test_attention_does_not_run_over_kept_slots_above_the_running_ones() -> None:
    pool = new_pool()
    first, _ = pool.begin_path([*range(10)])
    compute(pool, first, 10, 0)
    answered(pool, [*range(1000, 1200)])
    assert pool.extent == 64


def test_what_another_pool_keeps_is_copied_in_the_order_of_its_path() -> None:
    cache = SlotCache(layers=2, pools=2, capacity=64)
    first, second = PrefixCachingPool(cache, 0), PrefixCachingPool(cache, 1)
    prompt = [*range(100, 200)]
    other, _ = second.begin_path([1, 2, 3])
    compute(second, other, 3, 0)
    row, _ = first.begin_path(prompt)
    slots = first.acquire(100)[::-1]
    first.positions[slots] = range(100)
    keys = torch.tensor(prompt, dtype=torch.float32)[None, None, :, None]
    cache.aim(torch.tensor(slots.copy()), 128)
    for layer in cache.layers:
        layer.update(keys, -keys)
    cache.keep_states(torch.tensor(slots.copy()), keys[0, 0])
    first.show(row, slots)
    first.keep_path(row, prompt)

    copy, shared = second.begin_path([*prompt[:90], 7], [first, second])

    assert shared == 90
    seen = np.flatnonzero(second.visible[copy])
    assert sorted(second.positions[seen].tolist()) == [*range(90)]
    flat = torch.tensor(seen[np.argsort(second.positions[seen])] + cache.stride)
    for layer in cache.layers:
        assert layer.keys is not None
        assert layer.values is not None
        assert layer.keys[0, flat, 0].tolist() == prompt[:90]
        assert (-layer.values[0, flat, 0]).tolist() == prompt[:90]
    assert cache.states(flat)[:, 0].tolist() == prompt[:90]
    assert second.held == 93
    assert first.held == 100


def test_too_little_to_copy_is_computed() -> None:
    cache = SlotCache(layers=1, pools=2, capacity=64)
    first, second = PrefixCachingPool(cache, 0), PrefixCachingPool(cache, 1, max_slots=80)
    answered(first, range(100))
    assert second.begin_path([*range(40), 7], [first, second])[1] == 0, "a step computes these"
    assert second.begin_path([*range(100)], [first, second])[1] == 0, "there is no room for those"
