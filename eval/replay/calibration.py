"""The one parameter of the simulation, fitted to a real run.

medusa-llm recorded, for every answer, its tokens and steps. Without threads a step is arithmetic: how far the right
tokens reach down the tree of draft tokens. So the correlation of the heads' errors is fitted on half of the questions
without a model, and what it says of the other half is held against what was recorded there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from medusa_apar.drafting.fixed_tree import tuned_tree

from .hits import HitModel
from .recorded import RecordedTurn

TREE = frozenset(tuned_tree(HitModel.published().accuracy, 63))
"""Paths of ranks of the draft tokens that every step of the recorded run carried."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted correlation, and how well it holds.

    Attributes:
        correlation: of `HitModel`.
        recorded, simulated: tokens per step on the questions that the fit saw.
        unseen_recorded, unseen_simulated: the same on the others.
        independent: simulated over all questions, if heads erred independently.
    """

    correlation: float
    recorded: float
    simulated: float
    unseen_recorded: float
    unseen_simulated: float
    independent: float

    @property
    def error(self) -> float:
        """Of the simulated tokens per step on unseen questions, relative."""
        return self.unseen_simulated / self.unseen_recorded - 1

    def __str__(self) -> str:
        return (
            f"correlation of the heads' errors {self.correlation:.3f}, fitted on half of the questions: "
            f"{self.simulated:.3f} tokens per step there ({self.recorded:.3f} recorded), "
            f"{self.unseen_simulated:.3f} on the other half ({self.unseen_recorded:.3f} recorded, {self.error:+.1%}); "
            f"independent heads would give {self.independent:.3f}"
        )


def simulated_steps(ranks: NDArray[np.int64], tree: Collection[tuple[int, ...]] = TREE) -> int:
    """Steps of one thread along an answer.

    Args:
        ranks: `[places, heads]` of `HitModel.draw`; place 0 is the last token of the prompt.
        tree: paths of ranks that every step carries.
    """
    rows = ranks.tolist()
    place, steps = 0, 0
    while place < len(rows) - 1:  # the token after this place is pending; a step computes it
        path = tuple(rows[place])
        place += 1 + next((length for length in range(len(path), 0, -1) if path[:length] in tree), 0)
        steps += 1
    return steps


def tokens_per_step(turns: Sequence[RecordedTurn], correlation: float) -> float:
    """Simulated tokens per step over turns."""
    hits = HitModel.published(correlation)
    steps = sum(simulated_steps(hits.draw(turn.tokens, seed=(0, number))) for number, turn in enumerate(turns))
    return sum(turn.tokens for turn in turns) / steps


def calibrate(turns: Sequence[RecordedTurn]) -> Calibration:
    """Fit the correlation on every other question of a recorded run.

    Raises:
        ValueError: the run recorded no steps, or answers to fewer than two questions.
    """
    if any(turn.steps is None for turn in turns):
        raise ValueError("the answers to calibrate on record no steps (`idxs`); give those of a run of medusa-llm")
    questions = list(dict.fromkeys(turn.question_id for turn in turns))
    if len(questions) < 2:
        raise ValueError(f"the answers to calibrate on are to {len(questions)} questions; half of them are for the fit")
    fitted = [turn for turn in turns if turn.question_id in questions[::2]]
    unseen = [turn for turn in turns if turn.question_id in questions[1::2]]
    recorded = _recorded(fitted)
    best = minimize_scalar(
        lambda correlation: (tokens_per_step(fitted, correlation) - recorded) ** 2,
        bounds=(0.0, 0.95), method="bounded", options={"xatol": 1e-3},
    )  # fmt: skip
    correlation = round(float(best.x), 3)
    return Calibration(
        correlation,
        recorded=recorded,
        simulated=tokens_per_step(fitted, correlation),
        unseen_recorded=_recorded(unseen),
        unseen_simulated=tokens_per_step(unseen, correlation),
        independent=tokens_per_step(turns, 0.0),
    )


def _recorded(turns: Sequence[RecordedTurn]) -> float:
    return sum(turn.tokens for turn in turns) / sum(turn.steps or 0 for turn in turns)
