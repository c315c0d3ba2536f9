"""Finds a row of a table."""

from __future__ import annotations

from typing import Any

from medusa_apar.eval.measurement.tables import Section


def row_of(section: Section[Any], *about: Any) -> dict[str, Any]:
    """The row that these name."""
    return next(row for row in section.rows if tuple(row[name] for name in section.about) == about)
