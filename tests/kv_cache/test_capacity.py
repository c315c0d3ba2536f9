"""What a KV slot takes in memory, held against the cache's own tensors."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest
import torch
from transformers import Cache, PreTrainedModel

from medusa_apar import MedusaAparModel
from medusa_apar.kv_cache.capacity import SHARE, slot_bytes, slots_that_fit

from ..runner.test_backbones import backbone


def decoded_cache(model: PreTrainedModel) -> Cache:
    """The KV cache after an answer, as the backbone was given it."""
    caches: list[Cache] = []
    handle = model.register_forward_pre_hook(
        lambda _, arguments, named: caches.append(named["past_key_values"]), with_kwargs=True
    )
    MedusaAparModel(model).generate(torch.tensor([[5, 6, 7, 8]]), max_new_tokens=3)
    handle.remove()
    return caches[-1]


def bytes_of_one_slot(cache: Cache) -> int:
    """Of keys and values of all layers, `[..., slots, head_dim]`."""
    return sum(tensor.select(-2, 0).nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("llama", {}),
        ("llama, as many key-value heads", {}),
        ("llama, one key-value head", {}),
        ("qwen3", {"head_dim": 24}),
        ("gemma3_text", {}),
    ],
)
def test_a_slot_takes_what_the_cache_holds_for_it(name: str, own: dict[str, int], dtype: torch.dtype) -> None:
    model = backbone(name, dtype=dtype, **own)
    assert slot_bytes(model) == bytes_of_one_slot(decoded_cache(model))


def test_grouped_heads_and_short_numbers_take_less() -> None:
    every, grouped, one = (
        slot_bytes(backbone(name)) for name in ("llama, as many key-value heads", "llama", "llama, one key-value head")
    )
    assert every == 2 * grouped == 4 * one
    assert slot_bytes(backbone("llama", dtype=torch.float32)) == 2 * slot_bytes(backbone("llama", dtype=torch.bfloat16))


def test_slots_that_fit_take_their_share_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = backbone("llama", dtype=torch.float32)
    free = 10**6
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    slots = slots_that_fit(model)
    assert slots * slot_bytes(model) <= SHARE * free < (slots + 1) * slot_bytes(model)


def test_memory_that_torch_keeps_from_earlier_calls_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SimpleNamespace(device=torch.device("cuda"), config=backbone("llama").config, dtype=torch.float32)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10**6, 10**8))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 4 * 10**6)
    slots = []
    for reserved in (4 * 10**6, 9 * 10**6):
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _, reserved=reserved: reserved)
        slots.append(slots_that_fit(model))  # type: ignore[arg-type]
    assert slots[1] == pytest.approx(6 * slots[0], abs=6)
