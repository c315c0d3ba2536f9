"""The four modes side by side on one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from time import perf_counter

from rich import box
from rich.table import Table
from torch import Tensor

from medusa_apar.model import MedusaAparModel
from medusa_apar.modes import Mode

from ..decoding.answer import Answer
from ..decoding.decode import GENERATE, Limits, decode

_WARM_UP_TOKENS = 16


def compare(
    model: MedusaAparModel, input_ids: Tensor, limits: Limits, *, repeats: int = 5, seconds: float = 20.0
) -> dict[str, list[Answer]]:
    """Answer a prompt in every mode that the model can, and with transformers' own `generate`.

    The modes alternate, so that a drifting machine slows all of them alike; a short first round warms up.

    Args:
        model: the model.
        input_ids: `[1, length]`.
        limits: limits of every answer.
        repeats: timed rounds at most.
        seconds: after which no further round begins.

    Returns:
        The answers of the timed rounds by mode.
    """
    modes = [GENERATE, *(mode for mode in Mode if possible(model, mode))]
    answers: dict[str, list[Answer]] = {mode: [] for mode in modes}
    warm_up = replace(limits, max_new_tokens=min(_WARM_UP_TOKENS, limits.max_new_tokens))
    for mode in modes:
        decode(model, mode, input_ids, warm_up)
    start = perf_counter()
    for timed_round in range(repeats):
        if timed_round and perf_counter() - start > seconds:
            break
        for mode in modes:
            answers[mode].append(decode(model, mode, input_ids, limits))
    return answers


def possible(model: MedusaAparModel, mode: Mode) -> bool:
    """Whether a model has what a mode needs."""
    return not (mode.medusa and model.heads is None) and not (mode.apar and model.control is None)


def comparison_table(answers: dict[str, list[Answer]]) -> Table:
    """One line per mode; ratios are against mode `ar`."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    figures = ("tokens", "tokens\n/s", "x ar", "tokens\n/step", "steps", "x ar", "threads", "peak\nslots", "x ar")
    table.add_column("mode", no_wrap=True)
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    ar = answers[Mode.AR][0].stats
    ar_speed = _speed(answers[Mode.AR])
    for mode, rounds in answers.items():
        stats, speed = rounds[0].stats, _speed(rounds)
        table.add_row(
            mode, str(stats.answer_tokens), f"{speed:.0f}", f"{speed / ar_speed:.2f}", f"{stats.tokens_per_step:.2f}",
            str(stats.steps), f"{stats.steps / max(1, ar.steps):.2f}", str(stats.forks + 1),
            str(stats.peak_slots), f"{stats.peak_slots / max(1, ar.peak_slots):.2f}",
        )  # fmt: skip
    return table


def _speed(rounds: Sequence[Answer]) -> float:
    return median(answer.stats.answer_tokens / answer.seconds for answer in rounds)
