"""The model that decodes is a twin of the user's, which stays as it is and shares its weights and hooks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from medusa_apar import MedusaAparModel
from medusa_apar.runner.twin import state_of, twin

from ..conftest import CONTROL, EOS, forking_backbone, random_heads
from ..engine.test_lossless import MAX_DEPTH, batch, decode
from ..oracle import Oracle


def described(model: nn.Module) -> list[object]:
    """Modules, their attributes, their hooks, and the config."""

    def of_module(module: nn.Module) -> Iterator[object]:
        for name, value in sorted(vars(module).items()):
            yield name, id(value), len(value) if isinstance(value, dict) else None

    config = getattr(model, "config", None)
    return [
        *((name, id(module), *of_module(module)) for name, module in model.named_modules()),
        None if config is None else (config.to_dict(), config._attn_implementation),
    ]


COMPILED = pytest.param(True, id="compiled", marks=pytest.mark.integration)


@pytest.mark.parametrize("compiled", [pytest.param(False, id="plain"), COMPILED])
def test_the_users_model_is_the_same_before_while_and_after_it_decodes(compiled: bool) -> None:
    backbone = forking_backbone(seed=3, dtype=torch.float32)
    heads = random_heads(backbone)
    model = MedusaAparModel(backbone, heads)
    if compiled:
        model.compile(backend="eager")
    before = described(backbone), described(heads)
    seen: list[object] = []
    tokens = torch.arange(4, 12)[None]
    with torch.inference_mode():
        logits = backbone(tokens).logits

    class Watching:
        """A streamer, which is called amid decoding."""

        def put(self, _: Tensor) -> None:
            def look() -> None:
                with torch.inference_mode():
                    seen.append((described(backbone), described(heads)) == before)
                    seen.append(torch.equal(backbone(tokens).logits, logits))

            other = threading.Thread(target=look)
            other.start()
            other.join()

        def end(self) -> None: ...

    model.generate(tokens, max_new_tokens=12, nodes_per_step=8, streamer=Watching())  # type: ignore[arg-type]
    assert len(seen) > 4
    assert all(seen)
    assert (described(backbone), described(heads)) == before


def test_weights_are_shared() -> None:
    backbone = forking_backbone()
    made = twin(backbone)
    assert made is not backbone
    assert made.model.layers[0] is not backbone.model.layers[0]
    assert all(ours is theirs for ours, theirs in zip(made.parameters(), backbone.parameters(), strict=True))
    assert made.lm_head.weight is backbone.lm_head.weight
    backbone.to(torch.float32)  # type: ignore[call-arg, arg-type]
    assert {tensor.dtype for tensor in (*made.parameters(), *made.buffers())} == {torch.float32}


def test_hooks_of_the_user_are_called_also_those_that_come_later() -> None:
    backbone = forking_backbone()
    model = MedusaAparModel(backbone)
    _, ids, mask = batch(2, lengths=(5,))
    plain = decode(model, ids, mask).sequences
    layer = backbone.model.layers[-1]
    handle = layer.register_forward_hook(lambda module, inputs, output: -output)
    assert not torch.equal(decode(model, ids, mask).sequences, plain)
    handle.remove()
    assert torch.equal(decode(model, ids, mask).sequences, plain)


def halved(self: nn.Linear, x: Tensor) -> Tensor:
    return nn.functional.linear(x, self.weight) / 2


def by_method(linear: nn.Linear) -> None:
    linear.forward = MethodType(halved, linear)  # type: ignore[method-assign]


def by_partial(linear: nn.Linear) -> None:
    """As accelerate does."""
    linear.forward = partial(halved, linear)  # type: ignore[method-assign]


def by_module(linear: nn.Linear) -> None:
    linear.weight = nn.Parameter(linear.weight / 2)


def in_place(linear: nn.Linear) -> None:
    linear.weight /= 2


def behind_torchs_back(linear: nn.Linear) -> None:
    """As merges of LoRA and averages of weights do."""
    linear.weight.data /= 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("change", [by_method, by_partial, by_module, in_place, behind_torchs_back])
def test_what_changes_between_two_answers_counts_in_the_second(
    change: Callable[[nn.Linear], None], dtype: torch.dtype
) -> None:
    backbone = forking_backbone(dtype=dtype)
    model = MedusaAparModel(backbone, random_heads(backbone))
    _, ids, mask = batch(2, lengths=(5, 9))
    before = decode(model, ids, mask, max_new_tokens=24).sequences
    with torch.no_grad():
        change(backbone.model.layers[0].mlp.down_proj)
    after = decode(model, ids, mask, max_new_tokens=24)
    assert not torch.equal(after.sequences, before)
    assert after.trees is not None
    oracle = Oracle(backbone, CONTROL, EOS, MAX_DEPTH)
    for tree in after.trees:
        oracle.check(tree)


def test_a_compiled_forward_is_its_own() -> None:
    backbone: Any = forking_backbone()
    _, ids, mask = batch(2, lengths=(5,))
    plain = decode(MedusaAparModel(backbone), ids, mask).sequences
    backbone.forward = torch.compile(backbone.forward, backend="eager")
    assert torch.equal(decode(MedusaAparModel(backbone), ids, mask).sequences, plain)


def test_a_forward_that_nobody_can_tell_is_refused() -> None:
    backbone: Any = forking_backbone()
    own = backbone.forward
    backbone.forward = lambda *args, **kwargs: own(*args, **kwargs)
    _, ids, mask = batch(2, lengths=(5,))
    with pytest.raises(ValueError, match=r"forward of the LlamaForCausalLM was replaced by .*; register a hook, or"):
        decode(MedusaAparModel(backbone), ids, mask)


def test_the_state_is_that_of_modules_and_weights() -> None:
    backbone: PreTrainedModel = forking_backbone()
    state = state_of([backbone])
    assert state_of([backbone]) == state
    backbone.model.layers[0].mlp.down_proj = nn.Linear(48, 32, bias=False, dtype=torch.float64)
    assert state_of([backbone]) != state
