"""What a step costs with one model on this machine, by its nodes and by its rows of draft trees."""

from __future__ import annotations

import platform
from functools import cache, partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from medusa_apar import fingerprint
from medusa_apar.drafters.drafter import Beam, Drafter
from medusa_apar.drafters.pending_tokens import ComputedNodes, PendingTokens
from medusa_apar.kv_cache.placement import Placement
from medusa_apar.runner.compilation import TRACED
from medusa_apar.runner.model_runner import ModelRunner

from .budget import CostCurve, MeasuredBudget, NodeBudget, StepCost
from .cost_cache import cached_cost

CONTEXT = 256
"""Slots that are held when a step is timed."""
FAR, FAR_NODES = 640, 32
"""Further slots, over which so many nodes are timed."""
MEASURED_ROWS = (1, 2, 4, 8, 16, 32)


def measured_budget(runner: ModelRunner, drafter: Drafter | None) -> NodeBudget:
    """The budget that gives the most tokens in a second on this machine, with heads or with n-grams alone."""
    return MeasuredBudget(step_cost(runner, drafter))


def step_cost(runner: ModelRunner, drafter: Drafter | None) -> StepCost:
    """The cost of steps; measured at the first call for a model, dtype and machine, then read from the cache."""
    return cached_cost(_subject(runner, drafter), lambda: measure(runner, drafter))


def measure(runner: ModelRunner, drafter: Drafter | None) -> StepCost:
    """Time the backbone's forward pass by its nodes, and the heads by their rows."""
    context = min(CONTEXT, runner.context_length // 2)
    (pool,) = runner.new_pools(1, 1023)
    row = pool.open_row()
    depths, zeros = np.arange(context), np.zeros(context, dtype=np.int64)
    prompt = Placement.acquire([pool], zeros, np.full(context, row), depths, np.tri(context, dtype=np.bool_))
    runner.prefill(prompt, zeros, depths[-1:])
    pool.show(row, prompt.slots)
    computed: ComputedNodes | None = None

    def forward(nodes: int) -> None:
        nonlocal computed
        zeros = np.zeros(nodes, dtype=np.int64)
        placement = Placement.acquire(
            [pool], zeros, np.full(nodes, row), np.full(nodes, context), np.eye(nodes, dtype=np.bool_)
        )
        logits, features = runner.forward(placement, zeros)
        computed = ComputedNodes(placement, zeros, features)
        logits.max(dim=-1).indices.tolist()
        placement.give_back(np.ones(nodes, dtype=np.bool_))

    def draft(rows: int, beam: Beam | None = None) -> None:
        if drafter is None or computed is None:
            return
        drafter.read(computed)
        zeros = torch.zeros(rows, dtype=torch.int64, device=computed.features.device)
        pending = PendingTokens(zeros, computed.features[zeros], zeros, [pool] * rows)
        trees = drafter.propose(pending, beam or drafter.beams[0])
        assert trees is not None
        trees[0].tolist()

    def reach(further: int) -> None:
        slots = pool.acquire(further)
        pool.show(row, slots)
        forward(FAR_NODES)
        pool.hide(row, np.isin(np.arange(1 + pool.capacity), slots))

    forward(FAR_NODES)
    curve = CostCurve.measure(forward, between=partial(draft, 1))
    assert computed is not None
    slots = runner.scored_slots(computed.placement)
    by_reach = CostCurve.measure(reach, (1, FAR))
    step = partial(forward, MEASURED_ROWS[-1])
    return StepCost(
        forward=curve,
        drafting={
            beam: CostCurve.measure(partial(draft, beam=beam), MEASURED_ROWS, between=step)
            for beam in (drafter.beams if drafter else ())
        },
        slots=slots,
        per_pair=(by_reach(FAR) - by_reach(1)) / (FAR_NODES * FAR),
    )


def _subject(runner: ModelRunner, drafter: Drafter | None) -> dict[str, Any]:
    model = runner.model
    config = {key: value for key, value in model.config.to_dict().items() if not key.startswith("_")}
    device = model.device
    heads = {} if drafter is None else {"kind": drafter.heads.config.model_type, **drafter.heads.config.shape}
    return {
        "backbone": config,
        "attention": model.config._attn_implementation,
        "heads": heads if drafter is None else heads | {"width": drafter.width},
        "dtype": str(model.dtype),
        "weights": runner.weights,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {_processor()}",
        "threads": torch.get_num_threads(),
        "step": type(runner.forward_pass).__name__,
        "versions": _versions(),
        "code": _code(),
    }


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("medusa-apar", "torch", "transformers")}


@cache
def _code() -> list[str]:
    """Tells apart the code that runs a step."""
    return [fingerprint.of_files(folder, "*.[pc]*") for folder in TRACED]


def _processor() -> str:
    return f"{platform.node()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
