"""From records of turns to how far draft tokens reach: by head, and by the depth of the thread."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich import box
from rich.table import Table

from ..measurement.tables import as_markdown, figure
from .timeline import ThreadLine, threads_by_step
from .turns import TurnRecord

HEADS = 5
"""Heads whose acceptance is shown."""
ALL_DEPTHS = "all"
LEGEND = (
    "threads: mean over the steps of an answer, mean over answers; 1 to 5: in which share of a thread's steps so many "
    "draft tokens or more were accepted, its first step among them, in which a child has no draft tokens yet; depth: "
    "of the thread, the root's is 1"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceRow:
    """How far the draft tokens of one mode reach.

    Attributes:
        mode: the mode.
        depth: of the threads that this is about; `ALL_DEPTHS` for all of them.
        threads: that choose tokens in a step, mean over the steps of an answer, mean over answers; None for one depth.
        thread_steps: steps of single threads that the shares are about.
        accepted: `[HEADS]`, entry k: the share of them in which more than k draft tokens were accepted.
    """

    mode: str
    depth: int | str
    threads: float | None
    thread_steps: int
    accepted: tuple[float, ...]


def summarize_acceptance(records: Iterable[TurnRecord], modes: Sequence[str]) -> list[AcceptanceRow]:
    """Rows of the modes that have timelines: all depths, then one by one where there are several."""
    records = list(records)
    rows = []
    for mode in modes:
        answers = [record.threads for record in records if record.mode == mode and record.threads]
        lines = [line for answer in answers for line in answer]
        if not lines:
            continue
        steps = [counts for answer in answers if (counts := threads_by_step(answer))]
        rows.append(_row(mode, ALL_DEPTHS, lines, fmean(map(fmean, steps)) if steps else None))
        depths = sorted({line.depth for line in lines})
        if len(depths) > 1:
            rows += [_row(mode, depth, [line for line in lines if line.depth == depth], None) for depth in depths]
    return rows


def _row(mode: str, depth: int | str, lines: Sequence[ThreadLine], threads: float | None) -> AcceptanceRow:
    accepted = [tokens - 1 for line in lines for step, tokens in line.tokens if step]
    shares = tuple(sum(each > k for each in accepted) / max(1, len(accepted)) for k in range(HEADS))
    return AcceptanceRow(mode=mode, depth=depth, threads=threads, thread_steps=len(accepted), accepted=shares)


def acceptance_table(rows: Sequence[AcceptanceRow]) -> Table:
    """One line per mode and depth, for the terminal."""
    return _filled(Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)), rows)


def acceptance_markdown(rows: Sequence[AcceptanceRow]) -> str:
    """The same as a markdown table."""
    return as_markdown(_filled(Table(box=box.MARKDOWN), rows))


def _filled(table: Table, rows: Sequence[AcceptanceRow]) -> Table:
    for name in ("mode", "depth", "threads", "steps", *map(str, range(1, HEADS + 1))):
        table.add_column(name, justify="left" if name == "mode" else "right")
    for row in rows:
        shares = [f"{share:.2f}" for share in row.accepted]
        table.add_row(row.mode, str(row.depth), figure(row.threads, ".2f"), str(row.thread_steps), *shares)
    return table
