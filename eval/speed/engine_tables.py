"""The tables about this engine's own modes: what threads cost and save, and how far draft tokens reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medusa_apar.modes import Mode

from ..measurement.tables import Section
from .acceptance_summary import summarize_acceptance
from .thread_summary import summarize_threads
from .turns import TurnRecord


def engine_tables(records: Sequence[TurnRecord], modes: Sequence[str]) -> list[Section[Any]]:
    """Those that have rows, of the modes that are not baselines."""
    own = [mode for mode in modes if mode in tuple(Mode)]
    forking = [mode for mode in own if Mode(mode).apar]
    drafting = [mode for mode in own if Mode(mode).medusa]
    tables: list[Section[Any]] = [summarize_threads(records, forking), summarize_acceptance(records, drafting)]
    return [table for table in tables if table.groups]
