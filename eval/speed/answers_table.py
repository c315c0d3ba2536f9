"""Figures of every answer, as a file that spreadsheets read."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from medusa_apar.modes import Mode

from .summary import tokens_per_second
from .turns import TurnRecord

COLUMNS = (
    "what", "question_id", "category", "turn", "mode", "tokens", "steps", "tokens_per_step", "ms_per_step", "forks",
    "peak_slots", "seconds", "speed_up",
)  # fmt: skip


def write_answers_table(records: Iterable[TurnRecord], path: Path, what: str = "measured") -> None:
    """Write a line for every answered turn in every mode; `speed_up` is of its tokens/s against mode `ar`.

    Args:
        records: the turns.
        path: of the file.
        what: stands in every line; a simulation is called one.
    """
    answered = {record.key: record for record in records if record.skipped is None}
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for record in answered.values():
            stats, plain = record.stats, answered.get((record.question_id, record.turn, str(Mode.AR)))
            table.writerow(
                [
                    what, record.question_id, record.category, record.turn, record.mode,
                    stats.answer_tokens, stats.steps,
                    f"{stats.answer_tokens / max(1, stats.steps):.3f}",
                    f"{1000 * record.seconds / max(1, stats.steps):.2f}",
                    stats.forks, stats.peak_slots, f"{record.seconds:.3f}",
                    "" if plain is None else f"{tokens_per_second([record]) / tokens_per_second([plain]):.3f}",
                ]
            )  # fmt: skip
