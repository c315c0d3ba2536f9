"""Invariants 4 and 5: nothing is copied, and a slot is free the moment nobody can see it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from medusa_apar import MedusaAparModel
from medusa_apar.engine import pools as engine_pools
from medusa_apar.engine.engine import Engine
from medusa_apar.engine.state import Request
from medusa_apar.kv_cache.slot_cache import SlotCache
from medusa_apar.kv_cache.slot_pool import SlotPool

from ..conftest import forking_backbone, random_heads
from ..engine.test_lossless import batch


class PoolMachine(RuleBasedStateMachine):
    """Random forks, acceptances and ends, held against plain sets of slots."""

    @initialize(capacity=st.sampled_from([4, 64]))
    def open_root(self, capacity: int) -> None:
        self.pool = SlotPool(SlotCache(layers=1, pools=1, capacity=capacity))
        self.seen: dict[int, set[int]] = {self.pool.open_row(): set()}

    def _pick(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.seen)))

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), nodes=st.integers(1, 9))
    def step(self, data: st.DataObject, nodes: int) -> None:
        row = self._pick(data)
        slots = self.pool.acquire(nodes)
        held_before = set().union(*self.seen.values())
        assert len(set(slots.tolist())) == nodes
        assert not held_before & set(slots.tolist()), "a held slot was handed out again"
        kept = data.draw(st.integers(0, nodes))
        self.pool.show(row, slots[:kept])
        self.seen[row] |= set(slots[:kept].tolist())
        self.pool.give_back(slots[kept:])

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        parent = self._pick(data)
        self.seen[self.pool.fork_row(parent)] = set(self.seen[parent])

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        row = self._pick(data)
        self.pool.close_row(row)
        del self.seen[row]

    @rule()
    def open(self) -> None:
        self.seen[self.pool.open_row()] = set()

    @invariant()
    def exactly_the_visible_slots_are_held(self) -> None:
        held = set().union(*self.seen.values())
        assert self.pool.held == len(held)
        assert self.pool.free + self.pool.held == self.pool.capacity
        assert self.pool.extent > max(held, default=0)
        for row, slots in self.seen.items():
            assert set(np.flatnonzero(self.pool.visible[row]).tolist()) == slots


PoolMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestPoolAccounting = PoolMachine.TestCase


def test_the_lowest_free_slots_come_first() -> None:
    pool = SlotPool(SlotCache(layers=1, pools=1, capacity=64))
    row = pool.open_row()
    slots = pool.acquire(6)
    pool.show(row, slots[[0, 3, 5]])
    pool.give_back(slots[[1, 2, 4]])
    assert pool.acquire(4).tolist() == [2, 3, 5, 7]


def test_mask_is_visible_slots_and_ancestors() -> None:
    pool = SlotPool(SlotCache(layers=1, pools=1, capacity=64))
    root = pool.open_row()
    pool.show(root, pool.acquire(2))
    child = pool.fork_row(root)
    pool.show(root, pool.acquire(1))
    slots = pool.acquire(3)
    mask = pool.mask([root, root, child], slots, np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]], dtype=bool))
    assert [np.flatnonzero(line).tolist() for line in mask] == [[1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 2, 6]]


@pytest.mark.parametrize("max_threads", [1, 8])
def test_the_pool_is_exact_during_decoding_and_empty_afterwards(
    max_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = forking_backbone(seed=0)
    engines: list[Engine] = []
    step = Engine.step

    def checked(self: Engine) -> list[Request]:
        requests = step(self)
        engines.append(self)
        for pool in self.pools:
            assert pool.held == np.count_nonzero(pool.visible.any(axis=0)), "a slot is held that no thread sees"
            assert not pool.visible[:, 0].any(), "slot 0 is for padding nodes"
        return requests

    monkeypatch.setattr(Engine, "step", checked)
    _, ids, mask = batch(lengths=(5,))
    MedusaAparModel(backbone, random_heads(backbone)).generate(
        ids, attention_mask=mask, max_new_tokens=60, max_depth=3, max_threads=max_threads, nodes_per_step=12
    )
    for pool in engines[-1].pools:
        assert pool.held == 0
        assert pool.free == pool.capacity


def test_keys_and_values_are_written_once_and_never_moved() -> None:
    """Whatever is held keeps its keys and values bit by bit until it is freed."""
    backbone = forking_backbone(seed=0)
    written: dict[int, torch.Tensor] = {}
    step = Engine.step

    def compare(self: Engine) -> list[Request]:
        requests = step(self)
        (pool,) = self.pools
        keys = pool.cache.layers[0].keys
        assert keys is not None
        held = np.flatnonzero(pool.visible.any(axis=0)).tolist()
        for slot in held:
            now = keys[:, slot]
            assert slot not in written or torch.equal(written[slot], now)
        written.clear()
        written.update({slot: keys[:, slot].clone() for slot in held})
        return requests

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "step", compare)
        _, ids, mask = batch(lengths=(5,))
        MedusaAparModel(backbone, random_heads(backbone)).generate(
            ids, attention_mask=mask, max_new_tokens=60, max_depth=3, nodes_per_step=12
        )


def test_the_pool_grows_while_it_is_in_use() -> None:
    backbone = forking_backbone(seed=0)
    model = MedusaAparModel(backbone, random_heads(backbone))
    _, ids, mask = batch()
    roomy = model.generate(ids, attention_mask=mask, max_new_tokens=60, max_depth=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_pools, "_first_capacity", lambda _: 8)
        tight = model.generate(ids, attention_mask=mask, max_new_tokens=60, max_depth=3)
    assert torch.equal(roomy, tight)


def test_an_interruption_empties_the_pool() -> None:
    backbone = forking_backbone(seed=0)
    engines: list[Engine] = []
    step = Engine.step

    def interrupt(self: Engine) -> list[Request]:
        engines.append(self)
        if len(engines) == 5:
            raise KeyboardInterrupt
        return step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "step", interrupt)
        _, ids, mask = batch(lengths=(5,))
        with pytest.raises(KeyboardInterrupt):
            MedusaAparModel(backbone).generate(ids, attention_mask=mask, max_new_tokens=60)
    assert [pool.held for pool in engines[-1].pools] == [0]
