"""The summary of a measurement: its tables on the terminal, and beside its records as Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from .tables import Section


def write_summary(folder: Path, title: str, settings: Mapping[str, Any], sections: Sequence[Section[Any]]) -> None:
    """Write `summary.json` and `summary.md`, and print the tables.

    Args:
        folder: of the results.
        title: what was measured, in a few words.
        settings: everything that the figures depend on.
        sections: the tables.
    """
    summary = {"settings": settings, "tables": {section.title: section.rows for section in sections}}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, default=asdict) + "\n", encoding="utf-8")
    tables = "\n".join(f"## {section.title}\n\n{section.markdown()}\n{section.legend}\n" for section in sections)
    listed = "\n".join(f"- {name}: {value}" for name, value in settings.items())
    (folder / "summary.md").write_text(f"# {title}\n\n{tables}\n{listed}\n", encoding="utf-8")
    output = Console()
    output.print(title, style="bold", markup=False)
    for number, section in enumerate(sections):
        if section.title != title:
            output.print(section.title, style="bold", markup=False)
        output.print(section.terminal())
        if section.legend not in [later.legend for later in sections[number + 1 :]]:
            output.print(section.legend, style="dim", markup=False)
    output.print(f"results: {folder}", markup=False)
