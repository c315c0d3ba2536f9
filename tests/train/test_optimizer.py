"""Muon for matrices, AdamW for the rest."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from medusa_apar.train import optimizer
from medusa_apar.train.optimizer import MuonAdamW, muon_parameter_groups, orthogonalize

from .conftest import tiny_llama


@pytest.mark.parametrize("shape", [(64, 64), (32, 128), (128, 32)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_orthogonalize_brings_singular_values_near_one(shape: tuple[int, int], scale: float) -> None:
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrix = scale * u @ torch.diag(torch.logspace(0, -1.5, min(shape))) @ v
    result = orthogonalize(matrix)
    values = torch.linalg.svdvals(result)
    assert result.shape == matrix.shape
    assert values.min() > 0.6
    assert values.max() < 1.3


@pytest.mark.parametrize(("bfloat16", "most"), [(False, 1e-3), (True, 0.05)])
def test_orthogonalize_keeps_the_singular_vectors(monkeypatch: pytest.MonkeyPatch, bfloat16: bool, most: float) -> None:
    monkeypatch.setattr(optimizer, "cpu_has_bfloat16", lambda: bfloat16)
    matrix = torch.randn(32, 64, dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    projected = u.T @ orthogonalize(matrix) @ v.T
    off_diagonal = projected - torch.diag(projected.diag())
    assert off_diagonal.abs().max() < most


def test_a_zero_gradient_gives_no_direction() -> None:
    assert torch.equal(orthogonalize(torch.zeros(4, 6)), torch.zeros(4, 6))


def test_groups_hold_each_parameter_once_and_only_hidden_matrices_go_to_muon(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = tiny_llama(tiny_tokenizer)
    model.model.norm.requires_grad_(False)
    muon, adamw = muon_parameter_groups(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    muon_names, adamw_names = ({names[id(p)] for p in group["params"]} for group in (muon, adamw))
    assert (muon["muon"], adamw["muon"]) == (True, False)
    assert muon_names == {name for name in names.values() if name.endswith("_proj.weight")}
    assert muon_names | adamw_names | {"model.norm.weight"} == set(names.values())
    assert len(muon["params"]) + len(adamw["params"]) == len(names) - 1


def quadratic_losses(parameters: list[Tensor], optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    losses = []
    for step in range(steps):
        loss = sum(((parameter - step % 3) ** 2 * (1 + index)).sum() for index, parameter in enumerate(parameters))
        assert isinstance(loss, Tensor)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_vectors_get_adamw_without_weight_decay() -> None:
    ours = [nn.Parameter(torch.randn(n, dtype=torch.float64)) for n in (3, 7)]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    options = {"lr": 0.05, "betas": (0.9, 0.95), "eps": 1e-8}
    quadratic_losses(ours, MuonAdamW([{"params": ours, "muon": False}], weight_decay=0.1, **options), 20)
    quadratic_losses(theirs, torch.optim.AdamW(theirs, weight_decay=0.0, **options), 20)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_the_matrices_get_muon_with_decoupled_weight_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "cpu_has_bfloat16", lambda: False)
    matrix = nn.Parameter(torch.randn(8, 16))
    before, gradient = matrix.detach().clone(), torch.randn(8, 16)
    matrix.grad = gradient.clone()
    MuonAdamW([{"params": [matrix], "muon": True}], lr=0.1, weight_decay=0.5).step()
    expected = before * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 16**0.5 * orthogonalize(gradient)
    torch.testing.assert_close(matrix.detach(), expected)


def test_both_bring_a_loss_down() -> None:
    target, model = torch.randn(8, 16), nn.Sequential(nn.Linear(16, 8))
    optimizer = MuonAdamW(muon_parameter_groups(model), lr=0.05, weight_decay=0.0)
    losses = []
    for _ in range(150):
        loss = (model[0].weight - target).square().mean() + (model[0].bias - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_a_restored_state_goes_on_identically() -> None:
    parameters = [nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(5))]

    def optimizer_of(parameters: list[nn.Parameter]) -> MuonAdamW:
        groups = [{"params": parameters[:1], "muon": True}, {"params": parameters[1:], "muon": False}]
        return MuonAdamW(groups, lr=0.05)

    first = optimizer_of(parameters)
    quadratic_losses(list(parameters), first, 5)
    copies = [nn.Parameter(p.detach().clone()) for p in parameters]
    second = optimizer_of(copies)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert quadratic_losses(list(parameters), first, 5) == quadratic_losses(list(copies), second, 5)
    assert all(torch.equal(a, b) for a, b in zip(parameters, copies, strict=True))
