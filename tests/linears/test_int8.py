"""`weights="int8"`: products that are exact in integers, and answers that do not depend on the schedule."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from medusa_apar import MedusaAparModel
from medusa_apar.fingerprint import of_weights
from medusa_apar.linears import prepare
from medusa_apar.linears.opaque_linear import JoinedLinear
from medusa_apar.linears.quantized_linears import QuantizedLinear, quantize_linears
from medusa_apar.runner.twin import twin

from ..conftest import CONTROL, EOS, random_heads, random_sequential_heads
from ..engine.test_lossless import SCHEDULES, batch, decode
from ..oracle import Oracle
from ..runner.test_backbones import BACKBONES, MAX_DEPTH, backbone

SDPA = [name for name in BACKBONES if name != "gemma2"]


class IntegerLinear(nn.Module):
    """The slow reference: a linear layer whose weights and rows are rounded to integers, summed in 64 bits."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        self.scales = weight.abs().amax(dim=1).clamp(min=1e-12).double() / 63
        self.integers = (weight.double() / self.scales[:, None]).round().clamp(-63, 63).long()
        self.bias = linear.bias

    def forward(self, rows: Tensor) -> Tensor:
        ranges = rows.float().abs().amax(dim=-1, keepdim=True).clamp(min=1e-12)
        integers = (rows.float() / ranges * 127).round().long()
        product = (integers @ self.integers.T).double() * self.scales / 127 * ranges
        product = product if self.bias is None else product + self.bias.double()
        return product.to(rows.dtype)


def attention_in_float64(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    groups = query.shape[1] // key.shape[1]
    key, value = (each.double().repeat_interleave(groups, dim=1) for each in (key, value))
    scores = query.double() @ key.transpose(-1, -2) * kwargs["scaling"]
    causal = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(scores.shape[-1] - scores.shape[-2])
    window = kwargs.get("sliding_window")
    if window is not None:
        causal = causal.triu(scores.shape[-1] - scores.shape[-2] - window + 1)
    output = scores.masked_fill(~causal, -torch.inf).softmax(dim=-1) @ value
    return output.to(query.dtype).transpose(1, 2).contiguous(), None


AttentionInterface.register("float64", attention_in_float64)


def reference(model: PreTrainedModel) -> PreTrainedModel:
    """The same model, quantised by the slow reference, as transformers decodes it."""
    made = copy.deepcopy(model)
    for module in list(made.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, IntegerLinear(child))
    made.config._attn_implementation = "float64"
    return made


@pytest.fixture(scope="module")
def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(96, 80)


@torch.inference_mode()
def test_products_are_those_of_integers(linear: nn.Linear) -> None:
    rows = torch.randn(40, 96) * torch.logspace(-3, 3, 40)[:, None]
    found, wanted = QuantizedLinear(linear)(rows), IntegerLinear(linear)(rows)
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", range(1, 65))
@torch.inference_mode()
def test_a_rows_product_does_not_depend_on_the_rows_beside_it(linear: nn.Linear, rows: int) -> None:
    quantized = QuantizedLinear(linear)
    beside = torch.randn(rows, 96, generator=torch.Generator().manual_seed(rows)) * 100
    beside[rows // 2] = (row := torch.linspace(-1, 3, 96))
    assert torch.equal(quantized(beside)[rows // 2], quantized(row[None])[0])


@torch.inference_mode()
def test_a_row_of_zeros_is_zero() -> None:
    assert QuantizedLinear(nn.Linear(16, 8, bias=False))(torch.zeros(2, 16)).abs().max() == 0


@torch.inference_mode()
def test_layers_of_the_same_input_are_one_product() -> None:
    model = backbone("qwen2", "sdpa", dtype=torch.float32)
    joined, rows = twin(model), torch.randn(1, 5, model.config.hidden_size)
    quantize_linears(joined)
    attention, alone = joined.model.layers[0].self_attn, model.model.layers[0].self_attn
    for name in ("q_proj", "k_proj", "v_proj"):
        assert isinstance(getattr(attention, name), JoinedLinear)
        assert torch.equal(getattr(attention, name)(rows), QuantizedLinear(getattr(alone, name))(rows))


@pytest.mark.parametrize("name", SDPA)
def test_every_thread_is_what_the_quantised_backbone_writes_alone(name: str) -> None:
    model = backbone(name, "sdpa", dtype=torch.float32)
    _, ids, mask = batch(seed=4, lengths=(5, 9, 3, 7))
    output = decode(
        MedusaAparModel(model, random_heads(model), weights="int8"), ids, mask, nodes_per_step=12, max_new_tokens=24
    )
    assert output.trees is not None
    assert sum(len(tree.threads) for tree in output.trees) > 5, "the tiny backbone should fork"
    oracle = Oracle(reference(model), CONTROL, EOS, MAX_DEPTH)
    assert sum(oracle.check(tree) for tree in output.trees) == 0


def check_schedules(wrapped: MedusaAparModel, seed: int) -> None:
    """Answers are the same under all schedules, in a batch and alone."""
    _, ids, mask = batch(seed, lengths=(5, 9, 3, 7))
    together = [decode(wrapped, ids, mask, **schedule).sequences for schedule in SCHEDULES.values()]
    for other in together[1:]:
        assert torch.equal(together[0], other)
    for row, wanted in enumerate(together[0]):
        alone = decode(wrapped, ids[row : row + 1], mask[row : row + 1]).sequences[0, ids.shape[1] :]
        assert torch.equal(alone, wanted[ids.shape[1] :][: len(alone)])


@pytest.mark.parametrize("seed", range(2))
def test_the_schedule_changes_no_answer(seed: int) -> None:
    model = backbone("llama", "sdpa", dtype=torch.float32)
    wrapped = MedusaAparModel(model, random_sequential_heads(model), weights="int8")
    check_schedules(wrapped, seed)


def test_the_users_model_keeps_its_weights() -> None:
    model = backbone("llama", "sdpa", dtype=torch.float32)
    before = copy.deepcopy(model.state_dict())
    decode(MedusaAparModel(model, weights="int8"), torch.tensor([[5, 6, 7]]))
    assert type(model.lm_head) is nn.Linear
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = backbone("llama", "sdpa", dtype=torch.float32)
    MedusaAparModel(model, random_sequential_heads(model)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_loaded_in_int8_the_backbone_holds_its_weights_once_and_answers_alike(checkpoint: Path) -> None:
    beside = MedusaAparModel.from_pretrained(checkpoint)
    once = MedusaAparModel.from_pretrained(checkpoint, weights="int8")
    beside.weights = once.weights
    held = [each for each in once.backbone.parameters() if each.device.type != "meta"]
    assert sum(map(torch.Tensor.numel, held)) < sum(map(torch.Tensor.numel, beside.backbone.parameters())) / 2
    _, ids, mask = batch(seed=4, lengths=(5, 9, 3, 7))
    assert torch.equal(decode(once, ids, mask).sequences, decode(beside, ids, mask).sequences)


def test_transformers_decodes_with_a_backbone_loaded_in_int8(checkpoint: Path) -> None:
    model = MedusaAparModel.from_pretrained(checkpoint, weights="int8")
    ids = torch.tensor([[5, 6, 7]])
    exact = reference(MedusaAparModel.from_pretrained(checkpoint).backbone)
    with torch.inference_mode():
        assert torch.allclose(model.backbone(ids).logits, exact(ids).logits, rtol=1e-2, atol=1e-2)


def test_models_loaded_in_int8_are_told_apart_by_their_weights(checkpoint: Path, tmp_path: Path) -> None:
    first = MedusaAparModel.from_pretrained(checkpoint, weights="int8")
    again = MedusaAparModel.from_pretrained(checkpoint, weights="int8")
    other = MedusaAparModel.from_pretrained(checkpoint)
    with torch.no_grad():
        other.backbone.model.layers[0].mlp.down_proj.weight.mul_(2)
    other.save_pretrained(tmp_path / "other")
    changed = MedusaAparModel.from_pretrained(tmp_path / "other", weights="int8")
    assert of_weights(first.backbone) == of_weights(again.backbone) != of_weights(changed.backbone)


def test_what_was_loaded_in_int8_is_neither_saved_nor_moved_off_the_cpu(checkpoint: Path, tmp_path: Path) -> None:
    model = MedusaAparModel.from_pretrained(checkpoint, weights="int8")
    with pytest.raises(ValueError, match="weights='int8': what was loaded so has no weights to save"):
        model.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    with pytest.raises(ValueError, match="products run on the CPU, not on meta; load it without weights="):
        model.to("meta")
    assert model.to("cpu", torch.float32).device.type == "cpu"


def test_int8_is_told_apart_from_weights_as_they_are(tmp_path: Path) -> None:
    model = backbone("llama", "sdpa", dtype=torch.float32)
    MedusaAparModel(model).save_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    found = {
        weights: decode(MedusaAparModel.from_pretrained(tmp_path, weights=weights), ids, max_new_tokens=40).sequences
        for weights in ("loaded", "int8")
    }
    assert not torch.equal(found["loaded"], found["int8"])


@pytest.mark.parametrize(
    ("kernels", "amx", "dtype", "wanted"),
    [
        (True, False, torch.float32, "int8"),
        (True, False, torch.bfloat16, "int8"),
        (True, True, torch.float32, "int8"),
        (True, True, torch.bfloat16, "loaded"),
        (False, False, torch.float32, "loaded"),
    ],
)
def test_auto_takes_int8_where_it_pays(
    kernels: bool, amx: bool, dtype: torch.dtype, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "has_kernels", lambda: kernels)
    monkeypatch.setattr(prepare, "cpu_has_amx", lambda: amx)
    model = backbone("llama", "sdpa", dtype=dtype)
    with MedusaAparModel(model, weights="auto").decoding() as (runner, _):
        assert runner.weights == wanted


def test_auto_leaves_alone_what_cannot_be_quantised() -> None:
    with MedusaAparModel(backbone("llama", "eager"), weights="auto").decoding() as (runner, _):
        assert runner.weights == "loaded"


def test_a_cpu_without_the_instructions_falls_back_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prepare, "has_kernels", lambda: False)
    monkeypatch.setattr(prepare.logger, "propagate", True)
    monkeypatch.setattr(prepare.logger.parent, "propagate", True)
    with MedusaAparModel(backbone("llama", "sdpa"), weights="int8").decoding() as (runner, _):
        assert runner.weights == "loaded"
    assert "this CPU lacks AVX2" in caplog.text


def test_what_cannot_be_quantised_is_named() -> None:
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(ValueError, match="weights='int4' is unknown; choose one of loaded, int8, auto"):
        MedusaAparModel(backbone("llama"), weights="int4")
    with pytest.raises(ValueError, match="attn_implementation='eager' is not reproducible; load it with 'sdpa'"):
        decode(MedusaAparModel(backbone("llama", "eager"), weights="int8"), ids)
    hooked = backbone("llama", "sdpa")
    hooked.lm_head.forward = hooked.lm_head.forward
    with pytest.raises(
        ValueError, match="weights='int8': lm_head is a Linear whose weight is a Parameter, or has a hook"
    ):
        decode(MedusaAparModel(hooked, weights="int8"), ids)


@pytest.mark.integration
def test_the_schedule_changes_no_answer_of_compiled_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDUSA_APAR_CACHE", str(tmp_path))
    model = backbone("llama", "sdpa", dtype=torch.float32)
    wrapped = MedusaAparModel(model, random_sequential_heads(model), weights="int8")
    wrapped.compile()
    for seed in range(4):
        check_schedules(wrapped, seed)


@pytest.mark.slow
def test_the_schedule_changes_none_of_a_thousand_answers() -> None:
    model = backbone("llama", "sdpa", dtype=torch.float32)
    wrapped = MedusaAparModel(model, random_sequential_heads(model), weights="int8")
    forks = 0
    for seed in range(50):
        _, ids, mask = batch(seed, lengths=tuple(3 + (seed + row) % 9 for row in range(20)))
        outputs = [decode(wrapped, ids, mask, **schedule) for schedule in SCHEDULES.values()]
        assert all(torch.equal(outputs[0].sequences, other.sequences) for other in outputs[1:])
        forks += sum(len(tree.threads) - 1 for tree in outputs[0].trees or ())
    assert forks > 1000
