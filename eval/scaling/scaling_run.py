"""The run: every point in every mode, in turn, over several rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import torch
from tqdm.auto import tqdm

from medusa_apar.modes import Mode

from ..decoding.decode import Limits, decode
from ..measurement.records import Record
from ..measurement.rotation import rotated
from ..measurement.store import RecordStore
from ..replay.hits import HitModel
from ..replay.scripted import ScriptedModel
from .points import Point
from .workload import script_of_point

ScalingKey = tuple[Point, int, str]

_SPARE = 8
"""Tokens by which the limit lies above a script's, so that none is cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRecord(Record):
    """One batch of a point, written in one mode.

    Attributes:
        point: the workload.
        round: counted from 1.
        mode: the name of a `Mode`.
        answer_tokens: visible tokens of all rows.
        steps: forward passes of the backbone after prefill.
        nodes: that these computed.
        seconds: wall time around the call.
        head_seconds: of these, in the heads.
    """

    measured: ClassVar[str] = "a point"

    point: Point
    round: int
    mode: str
    answer_tokens: int
    steps: int
    nodes: int
    seconds: float
    head_seconds: float

    @classmethod
    def _from_row(cls, row: dict[str, Any]) -> ScalingRecord:
        return cls(**row | {"point": Point(**row["point"])})

    @property
    def key(self) -> ScalingKey:
        return self.point, self.round, self.mode

    @property
    def tokens_per_second(self) -> float:
        """Of the whole batch, prefill included."""
        return self.answer_tokens / self.seconds


class ScalingStore(RecordStore[ScalingKey, ScalingRecord]):
    """Finished points in a folder: `points.jsonl` and `settings.json`."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        super().__init__(folder / "points.jsonl", settings, ScalingRecord)


class ScalingRun:
    """Has scripted models write every point in every mode and keeps the records.

    The modes of a point alternate, and their order rotates from round to round, so that a drifting machine slows all of
    them alike. Backbones come one after the other, so that one at a time is in memory.

    Args:
        points: what is measured.
        modes: names of modes.
        model_of: makes the scripted model of a backbone's name.
        hits: which draft tokens are right.
    """

    def __init__(
        self,
        points: Sequence[Point],
        modes: Sequence[str],
        model_of: Callable[[str], ScriptedModel],
        hits: HitModel,
    ) -> None:
        self.points = points
        self.modes = modes
        self.hits = hits
        self._model_of = model_of

    def run(self, store: ScalingStore, rounds: int) -> None:
        """Write every point that the store lacks, after a short answer in every mode that warms up."""
        wanted = []
        for _, group in groupby(self.points, key=lambda point: point.backbone):
            points = list(group)
            wanted += [
                (point, number, mode)
                for number in range(1, rounds + 1)
                for place, point in enumerate(points)
                for mode in rotated(self.modes, number + place)
            ]
        missing = [key for key in wanted if key not in store]
        with tqdm(total=len(wanted), initial=len(wanted) - len(missing), unit="batch") as progress:
            for backbone, keys in groupby(missing, key=lambda key: key[0].backbone):
                scripted = self._model_of(backbone)
                for mode in self.modes:
                    self.write(scripted, Point(backbone, threads=2, rows=1, tokens=32), 0, mode)
                for point, number, mode in keys:
                    values = ", ".join(f"{name} {value}" for name, value in asdict(point).items())
                    progress.set_postfix_str(f"{values}, {mode}")
                    store.add(self.write(scripted, point, number, mode))
                    progress.update()

    def write(self, scripted: ScriptedModel, point: Point, number: int, mode: str) -> ScalingRecord:
        """Let the engine write one batch.

        Raises:
            RuntimeError: what it wrote is not the script; the engine is broken.
        """
        script = script_of_point(point, forks=Mode(mode).apar)
        device = scripted.model.device
        ranks = torch.from_numpy(self.hits.draw(len(script.token_ids), seed=(number, point.tokens)))
        script = script.to(device)
        scripted.follow(script, ranks.to(device))
        limits = Limits(max_new_tokens=script.tokens + _SPARE, max_threads=point.threads, max_depth=2)
        answer = decode(scripted.model, mode, script.prompt.repeat(point.rows, 1), limits)
        stats = answer.stats
        if stats.answer_tokens != point.rows * script.tokens:
            raise RuntimeError(
                f"{point}, mode {mode!r}: the engine wrote {stats.answer_tokens} tokens, and the script has "
                f"{script.tokens} in each row"
            )
        return ScalingRecord(
            point=point,
            round=number,
            mode=mode,
            answer_tokens=stats.answer_tokens,
            steps=stats.steps,
            nodes=stats.forward_nodes,
            seconds=answer.seconds,
            head_seconds=stats.head_seconds,
        )
