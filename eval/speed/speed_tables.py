"""The tables of a measurement of speed: speeds, what threads cost and save, and how far draft tokens reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medusa_apar.modes import Mode

from ..measurement.tables import Section
from .acceptance_summary import summarize_acceptance
from .summary import summarize
from .thread_summary import summarize_threads
from .turns import TurnRecord


def speed_tables(records: Sequence[TurnRecord], modes: Sequence[str]) -> list[Section[Any]]:
    """The table of speeds, then the tables about threads and acceptance that have rows; these leave baselines out."""
    own = [mode for mode in modes if mode in tuple(Mode)]
    forking = [mode for mode in own if Mode(mode).apar]
    drafting = [mode for mode in own if Mode(mode).medusa]
    tables: list[Section[Any]] = [summarize_threads(records, forking), summarize_acceptance(records, drafting)]
    return [summarize(records, modes), *(table for table in tables if table.groups)]
