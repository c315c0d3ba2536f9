"""The run: every point in every mode, in turn, over several rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, ClassVar

from medusa_apar.eval.batch.batch_run import TimedBatch
from medusa_apar.eval.decoding.decode import Limits
from medusa_apar.eval.measurement.store import RecordStore, rotated
from medusa_apar.eval.replay.scripted import ScriptedModel
from medusa_apar.modes import Mode

from .points import Point, script_of_point

ScalingKey = tuple[Point, int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRecord(TimedBatch):
    """One batch of a point.

    Attributes:
        point: the workload.
        nodes: that the steps computed.
        head_seconds: wall time in the heads.
    """

    measured: ClassVar[str] = "points"

    point: Point
    nodes: int
    head_seconds: float

    @classmethod
    def _from_row(cls, row: dict[str, Any]) -> ScalingRecord:
        return cls(**row | {"point": Point(**row["point"])})

    @property
    def key(self) -> ScalingKey:
        return self.point, self.round, self.mode


class ScalingStore(RecordStore[ScalingKey, ScalingRecord]):
    """Finished points in a folder."""

    record_type = ScalingRecord


def run_points(
    store: ScalingStore,
    points: Iterable[Point],
    modes: Sequence[str],
    rounds: int,
    model_of: Callable[[str], ScriptedModel],
) -> None:
    """Have scripted models write every point that the store lacks in every mode, after a short answer that warms up.

    The modes of a point alternate, and their order rotates from round to round, so that a drifting machine slows all of
    them alike. Backbones come one after the other, so that one at a time is in memory.

    Args:
        store: the finished points.
        points: what is measured, those of a backbone together.
        modes: names of modes.
        rounds: how often every point is measured.
        model_of: makes the scripted model of a backbone's name.
    """
    for backbone, group in groupby(points, key=lambda point: point.backbone):
        own = list(group)
        wanted = [
            (point, number, mode)
            for number in range(1, rounds + 1)
            for place, point in enumerate(own)
            for mode in rotated(modes, number + place)
        ]
        if not all(key in store for key in wanted):
            scripted = model_of(backbone)
            for mode in modes:
                write_point(scripted, (Point(backbone, threads=2, rows=1, tokens=32), 0, mode))
            store.fill(wanted, partial(write_point, scripted), label=lambda key: f"{key[0]}, {key[2]}")


def write_point(scripted: ScriptedModel, key: ScalingKey) -> ScalingRecord:
    """Let the engine write one batch."""
    point, number, mode = key
    script = script_of_point(point, forks=Mode(mode).apar)
    limits = Limits(max_threads=point.threads, max_depth=2)
    answer = scripted.write(script, Mode(mode), limits, seed=(number, point.tokens), rows=point.rows)
    return ScalingRecord(
        point=point,
        round=number,
        mode=mode,
        answer_tokens=answer.stats.answer_tokens,
        steps=answer.stats.steps,
        nodes=answer.stats.forward_nodes,
        seconds=answer.seconds,
        head_seconds=answer.stats.head_seconds,
    )
