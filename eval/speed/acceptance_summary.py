"""How far draft tokens reach, by head and by the depth of the thread: the third table of a measurement of speed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from ..measurement.tables import Column, Section
from .timeline import ThreadLine, threads_by_step
from .turns import TurnRecord

HEADS = 5
"""Heads whose acceptance is shown."""
ALL_DEPTHS = "all"


@dataclass(frozen=True, slots=True)
class ThreadLines:
    """Threads of one mode.

    Attributes:
        lines: the threads.
        answers: the answers that have them whole; empty for those of one depth.
    """

    lines: Sequence[ThreadLine]
    answers: Sequence[Sequence[ThreadLine]] = ()

    @property
    def accepted(self) -> list[int]:
        """Draft tokens accepted in each step of each thread."""
        return [tokens - 1 for line in self.lines for step, tokens in line.tokens if step]

    @property
    def threads(self) -> float | None:
        """That choose tokens in a step, mean over the steps of an answer, mean over answers; None without any."""
        steps = [counts for answer in self.answers if (counts := threads_by_step(answer))]
        return fmean(map(fmean, steps)) if steps else None

    def share(self, count: int) -> float:
        """Of the steps in which so many draft tokens or more were accepted."""
        return sum(each >= count for each in self.accepted) / max(1, len(self.accepted))


def _share_column(count: int) -> Column[ThreadLines]:
    return Column(str(count), lambda threads: threads.share(count), ".2f")


COLUMNS = (
    Column[ThreadLines](
        "threads", lambda threads: threads.threads, ".2f", "mean over the steps of an answer, mean over answers"
    ),
    Column[ThreadLines]("steps", lambda threads: len(threads.accepted), "", "of single threads"),
    *map(_share_column, range(1, HEADS + 1)),
)
NOTE = (
    "1 to 5: in which share of a thread's steps so many draft tokens or more were accepted, its first step among them, "
    "in which a child has no draft tokens yet; depth: of the thread, the root's is 1"
)


def summarize_acceptance(records: Iterable[TurnRecord], modes: Sequence[str]) -> Section[ThreadLines]:
    """Rows of the modes that have timelines: all depths, then one by one where there are several."""
    records = list(records)
    groups: dict[tuple[str, int | str], ThreadLines] = {}
    for mode in modes:
        answers = [record.threads for record in records if record.mode == mode and record.threads]
        lines = [line for answer in answers for line in answer]
        if lines:
            groups[mode, ALL_DEPTHS] = ThreadLines(lines, answers)
            depths = sorted({line.depth for line in lines})
            for depth in depths if len(depths) > 1 else ():
                groups[mode, depth] = ThreadLines([line for line in lines if line.depth == depth])
    return Section("Acceptance", ("mode", "depth"), COLUMNS, groups, NOTE)
