"""The run: every recorded turn in every mode, in turn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from medusa_apar.modes import Mode

from ..decoding.decode import Limits
from ..measurement.store import rotated
from ..speed.turns import TurnKey, TurnRecord, TurnStore
from .calibration import TREE
from .recorded import CHARACTERS_PER_TOKEN, RecordedTurn
from .script import script_of
from .scripted import ScriptedModel

RECORDED_TREE = "medusa-63"
"""Mode `medusa` with a fixed tree of as many draft tokens as the recorded run had, in place of the budget."""


@dataclass(frozen=True, slots=True)
class ReplayRun:
    """Has a scripted model write recorded answers in every mode and keeps the records.

    Modes alternate turn by turn, and their order rotates question by question, so that a drifting machine slows all of
    them alike.

    Attributes:
        scripted: the model.
        turns: what it is to write.
        modes: names of modes, or `RECORDED_TREE`.
        limits: the threads of a step, and the depth of the extraction; answers are written whole.
        seed: of the hits.
    """

    scripted: ScriptedModel
    turns: Sequence[RecordedTurn]
    modes: Sequence[str]
    limits: Limits
    seed: int = 0

    def run(self, store: TurnStore) -> None:
        """Write every turn that the store lacks."""
        numbers = {(turn.question_id, turn.turn): number for number, turn in enumerate(self.turns)}

        def write(key: TurnKey) -> TurnRecord:
            number = numbers[key[:2]]
            return self.write(self.turns[number], key[2], seed=number)

        def warm_up() -> None:
            for mode in self.modes:
                self.write(min(self.turns, key=lambda turn: turn.tokens), mode, seed=0)

        store.fill(
            [(*turn, mode) for turn, number in numbers.items() for mode in rotated(self.modes, number)],
            write,
            label=lambda key: f"{self.turns[numbers[key[:2]]].category}, {key[2]}",
            warm_up=warm_up,
        )

    def write(self, turn: RecordedTurn, mode: str, seed: int) -> TurnRecord:
        """Let the engine write one turn."""
        engine_mode, tree = (Mode.MEDUSA, sorted(TREE)) if mode == RECORDED_TREE else (Mode(mode), None)
        prompt_tokens = max(1, round(len(turn.conversation) / CHARACTERS_PER_TOKEN))
        script = script_of(turn, prompt_tokens, forks=engine_mode.apar, max_depth=self.limits.max_depth)
        answer = self.scripted.write(script, engine_mode, self.limits, seed=(self.seed, seed), medusa_choices=tree)
        return TurnRecord(
            question_id=turn.question_id,
            category=turn.category,
            turn=turn.turn,
            mode=mode,
            prompt_tokens=prompt_tokens,
            seconds=answer.seconds,
            stats=answer.stats,
            finished_at=time.time(),
        )
