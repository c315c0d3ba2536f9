"""The page: chapters of pictures and tables, put into its templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from medusa_apar.modes import Mode

from ..measurement.plotting import draw_growth
from ..measurement.provenance import read_provenance
from ..measurement.tables import Column, Section, interval_figures, spread_figures
from ..speed.speed_up_plot import compared, draw_speed_ups
from ..speed.turns import TurnRecord
from .pictures import as_svg, draw_against_speed, draw_slots, draw_timeline
from .results import Measurement, Quality, Speed, overall

_DRAWN = ("tokens/s", "speed-up", "s/answer")
"""Columns that are drawn by batch size or load."""


@dataclass(frozen=True, slots=True)
class Part:
    """One heading of a chapter with its picture, texts and table.

    Attributes:
        title: the heading.
        picture: an `<svg>`; empty without one.
        caption: below the picture.
        table: of figures.
        texts: of threads, by a line about each.
        folded: whether the table is hidden until the reader unfolds it.
    """

    title: str
    picture: str = ""
    caption: str = ""
    table: Section[Any] | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    folded: bool = False


def write_page(folder: Path, results: Sequence[Measurement], question_id: str | None = None) -> Path:
    """Write `index.html` and `report.md`.

    Args:
        folder: made if it does not exist.
        results: what to show.
        question_id: of the answer whose timeline is drawn; by default one with many threads.

    Returns:
        The path of `index.html`.

    Raises:
        ValueError: no measurement has an answer to that question.
    """
    speed = [each for each in results if isinstance(each, Speed)]
    answers = [each.picture(question_id) for each in speed]
    if question_id is not None and not any(answers):
        folders = ", ".join(str(each.folder) for each in speed) or "any folder"
        raise ValueError(f"answer={question_id!r}: no answer of mode {Mode.MEDUSA_APAR} to that question in {folders}")
    environment = Environment(
        loader=PackageLoader("medusa_apar.eval.report"),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"interval": interval_figures, "provenance": read_provenance}
    chapters = [
        *((each, _speed_parts(each, answer)) for each, answer in zip(speed, answers, strict=True)),
        *((each, [*map(_growth_part, each.tables)]) for each in results if not isinstance(each, Speed | Quality)),
        *((each, _quality_parts(each, speed)) for each in results if isinstance(each, Quality)),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("index.html", "report.md"):
        template = environment.get_template(f"{name}.jinja")
        text = template.render(chapters=chapters, speed=speed[0] if speed else None)
        (folder / name).write_text(text.rstrip() + "\n", encoding="utf-8")
    return folder / "index.html"


def _speed_parts(measured: Speed, answer: TurnRecord | None) -> list[Part]:
    speed, *others = measured.tables
    parts = [Part(speed.title, table=measured.overall)]
    if bars := compared(speed):
        caption = "Tokens/s against ar: median over questions, with quartiles; the dashed line is ar."
        parts.append(Part("Speed-up against ar", as_svg(partial(draw_speed_ups, rows=bars)), caption))
    if answer is not None:
        parts.append(_timeline_part(answer))
        if held := measured.slots(answer):
            caption = "KV slots held in each step, by mode. A line ends where the answer does."
            parts.append(Part("KV slots over the same answer", as_svg(partial(draw_slots, held=held)), caption))
    return [*parts, *(Part(table.title, table=table) for table in others), *_by_category([speed])]


def _timeline_part(answer: TurnRecord) -> Part:
    lines = answer.threads
    texts = {
        f"thread {number}, steps {line.opened} to {line.ended}, {sum(count for _, count in line.tokens)} tokens"
        + ("" if line.parent is None else f", forked from thread {line.parent}"): line.text
        for number, line in enumerate(lines)
    }
    caption = (
        f"Question {answer.question_id}, {answer.mode}: {answer.stats.answer_tokens} tokens in {answer.stats.steps} "
        "steps. A row is a thread, a bar a step; the higher, the more tokens were accepted in it."
    )
    picture = as_svg(partial(draw_timeline, lines=lines), height=0.8 + 0.3 * len(lines))
    return Part("One answer, step by step", picture, caption, texts=texts)


def _growth_part(table: Section[Any]) -> Part:
    drawn = [figure for figure in _DRAWN if figure in table.headings]
    panels = [partial(draw_growth, table=table, figure=figure) for figure in drawn]
    caption = f"{', '.join(drawn)} by {table.about[0]} and mode."
    return Part(table.title, as_svg(*panels, width=4.5 * len(panels)), caption, table)


def _quality_parts(measured: Quality, speed: Sequence[Speed]) -> list[Part]:
    answers = Path(measured.settings["answers"]).resolve()
    same = [each for each in speed if (each.folder / "answers").resolve() == answers]
    spreads = {row["mode"]: row["speed-up"] for each in same[:1] for row in each.overall.rows if row["speed-up"]}
    tables = {table.title: overall(table) for table in measured.tables}
    first, *_ = tables
    drawn, figure, better = ("Ratings", "all", "up") if "Ratings" in tables else (first, "nats/token", "down")
    points = {
        row["mode"]: (spreads[row["mode"]].median, row[figure])
        for row in tables[drawn].rows
        if row["mode"] in spreads and row[figure] is not None
    }
    if spreads:
        meaning = "of these answers, median (quartiles) over questions"
        column: Column[Any] = Column("speed-up", lambda row: spreads.get(row["mode"]), spread_figures, meaning)
        tables[first] = replace(tables[first], columns=[*tables[first].columns, column])
    parts = [Part(title, table=table) for title, table in tables.items()]
    if points:
        picture = as_svg(partial(draw_against_speed, figure=f"{drawn}: {figure}", points=points), width=4.5)
        caption = f"{drawn}, {figure}, against the speed-up of the same answers. Right is faster, {better} is better."
        parts.append(Part("Quality against speed", picture, caption))
    return [*parts, *_by_category(measured.tables)]


def _by_category(tables: Sequence[Section[Any]]) -> list[Part]:
    """The tables that have more than one category."""
    several = [table for table in tables if len({category for category, _ in table.groups}) > 2]
    return [Part(f"{table.title} by category", table=table, folded=True) for table in several]
