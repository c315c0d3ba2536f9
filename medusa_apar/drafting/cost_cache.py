"""Measured step costs, kept in the user's cache folder so that a machine measures a model once."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from medusa_apar.cache import cache_folder
from medusa_apar.drafters.drafter import Beam

from .budget import CostCurve, StepCost

logger = logging.getLogger(__name__)

_UNKEPT: dict[Path, StepCost] = {}
"""What this process has measured and could not write."""


def cached_cost(subject: dict[str, Any], measure: Callable[[], StepCost]) -> StepCost:
    """The costs that were measured for a subject, or measure and keep them.

    Args:
        subject: all that a step's time depends on: machine, model, dtype, library versions. JSON-compatible.
        measure: measures them.
    """
    text = json.dumps(subject, sort_keys=True, default=str)
    path = cache_folder("step-costs") / f"{sha256(text.encode()).hexdigest()[:32]}.json"
    known = _UNKEPT.get(path) or _read(path)
    if known is not None:
        return known
    cost = measure()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps({"subject": json.loads(text), **_as_json(cost)}), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        _UNKEPT[path] = cost
        logger.warning("step costs could not be kept in %s (%s); each process measures them", path.parent, error)
    return cost


def _read(path: Path) -> StepCost | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        drafting = {Beam(int(each["levels"]), int(each["width"])): _curve(each["seconds"]) for each in kept["drafting"]}
        cost = StepCost(_curve(kept["forward"]), drafting, float(kept["slots"]), float(kept["per_pair"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("step costs in %s cannot be read (%s); they are measured again", path, error)
        return None
    return cost


def _as_json(cost: StepCost) -> dict[str, Any]:
    return {
        "forward": cost.forward.seconds,
        "drafting": [asdict(beam) | {"seconds": curve.seconds} for beam, curve in cost.drafting.items()],
        "slots": cost.slots,
        "per_pair": cost.per_pair,
    }


def _curve(seconds: list[float]) -> CostCurve:
    if len(seconds) < 2:
        raise ValueError("a cost curve without a point")
    return CostCurve(tuple(map(float, seconds)))
