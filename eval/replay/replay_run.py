"""The run: every recorded turn in every mode, in turn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from tqdm.auto import tqdm

from medusa_apar.drafting.fixed_tree import tuned_tree
from medusa_apar.modes import Mode

from ..decoding.decode import Limits, decode_variant
from ..decoding.variants import Variant
from ..measurement.rotation import rotated
from ..speed.turns import TurnRecord, TurnStore
from .calibration import TREE_NODES
from .hits import HitModel
from .recorded import CHARACTERS_PER_TOKEN, RecordedTurn
from .script import script_of
from .scripted import ScriptedModel

RECORDED_TREE = "medusa-63"
"""Mode `medusa` with a fixed tree of as many draft tokens as the recorded run had, in place of the budget."""

_SPARE = 8
"""Tokens by which the limit lies above a script's, so that none is cut."""


class ReplayRun:
    """Has a scripted model write recorded answers in every mode and keeps the records.

    Modes alternate turn by turn, and their order rotates question by question, so that a drifting machine slows all of
    them alike.

    Args:
        scripted: the model.
        turns: what it is to write.
        hits: which of its draft tokens are right.
        modes: names of modes, or `RECORDED_TREE`.
        limits: the threads of a step, and the depth of the extraction; answers are written whole.
        seed: of the hits.
    """

    def __init__(
        self,
        scripted: ScriptedModel,
        turns: Sequence[RecordedTurn],
        hits: HitModel,
        modes: Sequence[str],
        limits: Limits,
        seed: int = 0,
    ) -> None:
        self.scripted = scripted
        self.turns = turns
        self.hits = hits
        self.modes = modes
        self.limits = limits
        self.seed = seed
        self._tree = tuned_tree(HitModel.published().accuracy, TREE_NODES)

    def run(self, store: TurnStore) -> None:
        """Write every turn that the store lacks."""
        wanted = [(number, mode) for number in range(len(self.turns)) for mode in rotated(self.modes, number)]
        missing = [
            (number, mode)
            for number, mode in wanted
            if (self.turns[number].question_id, self.turns[number].turn, mode) not in store
        ]
        if missing:
            for mode in self.modes:
                self.write(min(self.turns, key=lambda turn: turn.tokens), mode, seed=0)
        with tqdm(missing, initial=len(wanted) - len(missing), total=len(wanted), unit="turn") as progress:
            for number, mode in progress:
                progress.set_postfix_str(f"{self.turns[number].category}, {mode}")
                store.add(self.write(self.turns[number], mode, seed=number))

    def write(self, turn: RecordedTurn, mode: str, seed: int) -> TurnRecord:
        """Let the engine write one turn.

        Raises:
            RuntimeError: what it wrote is not the script; the engine is broken.
        """
        variant = Variant(Mode.MEDUSA, self._tree) if mode == RECORDED_TREE else Variant(Mode(mode))
        prompt_tokens = max(1, round(len(turn.conversation) / CHARACTERS_PER_TOKEN))
        script = script_of(turn, prompt_tokens, forks=variant.mode.apar, max_depth=self.limits.max_depth)
        device = self.scripted.model.device
        ranks = self.hits.draw(len(script.token_ids), seed=(self.seed, seed))
        script = script.to(device)
        self.scripted.follow(script, torch.from_numpy(ranks).to(device))
        limits = replace(self.limits, max_new_tokens=script.tokens + _SPARE)
        answer = decode_variant(self.scripted.model, variant, script.prompt, torch.ones_like(script.prompt), limits)
        stats = answer.stats
        if (stats.answer_tokens, stats.forks) != (script.tokens, script.forks):
            raise RuntimeError(
                f"question_id={turn.question_id!r}, turn {turn.turn}, mode {mode!r}: the engine wrote "
                f"{stats.answer_tokens} tokens with {stats.forks} forks, and the script has "
                f"{script.tokens} with {script.forks}"
            )
        return TurnRecord(
            question_id=turn.question_id,
            category=turn.category,
            turn=turn.turn,
            mode=mode,
            prompt_tokens=prompt_tokens,
            seconds=answer.seconds,
            stats=stats,
            finished_at=time.time(),
        )
