"""What was measured without a judge, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from medusa_apar.train.own_text.repetition import LOOPING_BELOW

from ..measurement.tables import Section, counts, figure
from .measure_summary import MeasureRow

MEASURES_LEGEND = (
    "answers: not empty + empty; tokens: mean per answer; nats/token: minus the log-likelihood of the text to the "
    "backbone, read from beginning to end, lower is likelier; 4-grams: share of distinct ones; loops: share of answers "
    f"with fewer than {LOOPING_BELOW} of them; empty: of answers with an item or a heading without anything behind it; "
    "open: of answers that end in a colon; numbers: of answers whose numbering skips or repeats; broken: of answers "
    "with any of the three"
)


def measures_section(rows: Sequence[MeasureRow]) -> Section:
    """What was measured without a judge."""
    columns = (
        "mode", "answers", "tokens", "nats/token", "4-grams", "loops", "empty", "open", "numbers", "broken",
    )  # fmt: skip
    return Section("Without a judge", columns, [(row.category, _measures(row)) for row in rows], MEASURES_LEGEND)


def _measures(row: MeasureRow) -> list[str]:
    return [
        row.mode,
        counts(row.answers, row.empty),
        figure(row.tokens, ".0f"),
        figure(row.nats_per_token, ".3f"),
        figure(row.distinct_4grams, ".2f"),
        figure(row.looping, ".0%"),
        figure(row.empty_details, ".0%"),
        figure(row.open_ends, ".0%"),
        figure(row.misnumbered, ".0%"),
        figure(row.broken, ".0%"),
    ]
