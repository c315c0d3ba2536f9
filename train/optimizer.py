"""Muon for the matrices, AdamW for the rest, as one optimizer.

Source: Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon), with the update scaled to the RMS
of AdamW's (Liu et al. 2025, arXiv 2502.16982, section 2.2), so that one learning rate serves both. Other than
`torch.optim.Muon` it orthogonalises in float32: CPUs without bfloat16 instructions are slow in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from medusa_apar.linears.dtype import cpu_has_bfloat16

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def muon_parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Split a model's parameters: hidden matrices for Muon; embeddings, output projection, vectors for AdamW."""
    vocabulary = {
        id(parameter)
        for name, module in model.named_modules()
        for parameter in module.parameters()
        if isinstance(module, nn.Embedding) or name.rsplit(".", 1)[-1] in ("lm_head", "projection")
    }
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim == 2 and id(p) not in vocabulary]
    chosen = {id(p) for p in matrices}
    groups = [
        {"params": matrices, "muon": True},
        {"params": [p for p in parameters if id(p) not in chosen], "muon": False},
    ]
    return [group for group in groups if group["params"]]


class MuonAdamW(Optimizer):
    """Muon on parameter groups marked `muon`, AdamW on the others.

    Args:
        groups: from `muon_parameter_groups`.
        lr: learning rate of both.
        momentum: Muon's.
        betas, eps: AdamW's.
        weight_decay: decoupled, on matrices alone.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(
            groups, {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            update = self._muon if group["muon"] else self._adamw
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update(parameter, parameter.grad, group)
        return loss

    def _muon(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        direction = orthogonalize(gradient.lerp(momentum, group["momentum"]))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(direction, alpha=-group["lr"] * 0.2 * max(parameter.shape) ** 0.5)

    def _adamw(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        beta1, beta2 = group["betas"]
        state["step"] += 1
        step = int(state["step"])
        mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].lerp_(gradient.square(), 1 - beta2)
        denominator = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        parameter.addcdiv_(mean, denominator, value=-group["lr"] / (1 - beta1**step))


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of `[rows, columns]` near 1 by Newton-Schulz iterations.

    They are computed in bfloat16, as Muon's authors do, on devices that multiply in it, and else in float32.
    """
    a, b, c = _NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    computed = torch.bfloat16 if matrix.is_cuda or cpu_has_bfloat16() else torch.float32
    wide: Tensor = (matrix.T if tall else matrix).to(computed)
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return (wide.T if tall else wide).to(matrix.dtype)
