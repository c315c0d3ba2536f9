"""The page: what it shows, put into its templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from medusa_apar.modes import Mode

from ..measurement.provenance import read_provenance
from ..measurement.spread import Spread
from ..measurement.tables import interval_figures, spread_figures
from ..speed.acceptance_summary import LEGEND as ACCEPTANCE_LEGEND
from ..speed.acceptance_summary import AcceptanceRow, acceptance_markdown, acceptance_table, summarize_acceptance
from ..speed.summary import OVERALL, SummaryRow
from ..speed.summary_table import LEGEND, markdown
from ..speed.thread_summary import LEGEND as THREADS_LEGEND
from ..speed.thread_summary import ThreadsRow, summarize_threads, threads_markdown, threads_table
from ..speed.turns import TurnRecord
from .drawings import (
    LEFT,
    PANEL_HEIGHT,
    PANEL_WIDTH,
    WIDTH,
    Scatter,
    SlotCurves,
    Timeline,
    panel_picture,
    rounded,
    scatter_of,
    slot_curves,
    timeline_of,
)
from .results import QualityResults, Results, SpeedResults


@dataclass(frozen=True, slots=True)
class Section:
    """What the page shows of one measurement of speed.

    Attributes:
        results: the measurement.
        threads: what threads cost and save, per mode.
        acceptance: how far draft tokens reach, per mode and depth.
        timeline, slots: pictures of one answer; None where no answer has threads.
        answer: that answer.
    """

    results: SpeedResults
    threads: list[ThreadsRow]
    acceptance: list[AcceptanceRow]
    timeline: Timeline | None
    slots: SlotCurves | None
    answer: TurnRecord | None

    @property
    def categories(self) -> list[str]:
        """The categories, and all of them together last."""
        return list(dict.fromkeys(row.category for row in self.results.rows))

    @property
    def compared(self) -> list[str]:
        """The modes that have a speed-up to show."""
        shown = [row.mode for row in self.results.overall if row.speed_up is not None]
        return [mode for mode in shown if mode != Mode.AR]

    def row(self, category: str, mode: str) -> SummaryRow:
        """The figures of a mode in a category."""
        return next(row for row in self.results.rows if (row.category, row.mode) == (category, mode))

    @property
    def largest(self) -> float:
        """The right end of the bars: the largest upper end of any speed-up."""
        ends = [
            row.speed_up.interval[1] if row.speed_up.interval else row.speed_up.median
            for row in self.results.rows
            if row.speed_up is not None
        ]
        return max([1.0, *ends]) * 1.02


def _section(results: SpeedResults, question_id: str | None) -> Section:
    modes = [mode for mode in results.modes if mode in tuple(Mode)]
    answer = results.picture(question_id)
    slots = None
    if answer is not None:
        compared = [results.of(answer.question_id, answer.turn, mode) for mode in modes]
        held = {each.mode: each.stats.slots_by_step for each in compared if each and each.stats.slots_by_step}
        slots = slot_curves(held) if held else None
    return Section(
        results=results,
        threads=summarize_threads(results.records, modes),
        acceptance=summarize_acceptance(results.records, [mode for mode in modes if Mode(mode).medusa]),
        timeline=None if answer is None else timeline_of(answer.threads),
        slots=slots,
        answer=answer,
    )


@dataclass(frozen=True, slots=True)
class QualitySection:
    """What the page shows of one measurement of quality.

    Attributes:
        results: the measurement.
        speed_ups: by mode, where the answers that it read were measured too.
        against_speed: the judge's rating, or else nats/token, against these; None where there are none.
    """

    results: QualityResults
    speed_ups: dict[str, Spread]
    against_speed: Scatter | None


def _quality_section(quality: QualityResults, measured: Sequence[SpeedResults]) -> QualitySection:
    answers = Path(quality.summary["settings"]["answers"]).resolve()
    speed = next((each for each in measured if (each.folder / "answers").resolve() == answers), None)
    if speed is None:
        return QualitySection(quality, {}, None)
    speed_ups = {row.mode: row.speed_up for row in speed.overall if row.speed_up}
    name, rows, key = ("rating", quality.scores, "score")
    if not rows:
        name, rows, key = ("nats/token", quality.measures, "nats_per_token")
    points = {
        row["mode"]: (speed_ups[row["mode"]].median, row[key])
        for row in rows
        if row["mode"] in speed_ups and row[key] is not None
    }
    return QualitySection(quality, speed_ups, scatter_of(name, points) if points else None)


def write_page(folder: Path, results: Results, question_id: str | None = None) -> Path:
    """Write `index.html` and `report.md`.

    Args:
        folder: made if it does not exist.
        results: what to show.
        question_id: of the answer whose timeline is drawn.

    Returns:
        The page.

    Raises:
        ValueError: no measurement has an answer to that question.
    """
    sections = [_section(each, question_id) for each in results.speed]
    if question_id is not None and not any(section.answer for section in sections):
        folders = ", ".join(str(each.folder) for each in results.speed) or "any folder"
        raise ValueError(f"answer={question_id!r}: no answer of mode {Mode.MEDUSA_APAR} to that question in {folders}")
    environment = Environment(
        loader=PackageLoader("medusa_apar.eval.report"),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "headings": lambda table: [str(column.header) for column in table.columns],
        "lines": lambda table: list(zip(*(column.cells for column in table.columns), strict=True)),
        "spread": spread_figures,
        "interval": interval_figures,
        "rounded": rounded,
        "provenance": lambda measured: read_provenance(measured).items(),
    }
    shown = {
        "sections": sections,
        "quality": [_quality_section(each, results.speed) for each in results.quality],
        "sweeps": [(sweep, [panel_picture(panel) for panel in sweep.panels]) for sweep in results.sweeps],
        "overall": OVERALL,
        "width": WIDTH,
        "left": LEFT,
        "panel_width": PANEL_WIDTH,
        "panel_height": PANEL_HEIGHT,
        "legends": {"speed": LEGEND, "threads": THREADS_LEGEND, "acceptance": ACCEPTANCE_LEGEND},
        "markdown": markdown,
        "threads_table": threads_table,
        "threads_markdown": threads_markdown,
        "acceptance_table": acceptance_table,
        "acceptance_markdown": acceptance_markdown,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, template in (("index.html", "page.html.jinja"), ("report.md", "page.md.jinja")):
        text = environment.get_template(template).render(shown)
        (folder / name).write_text(text.rstrip() + "\n", encoding="utf-8")
    return folder / "index.html"
