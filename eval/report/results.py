"""Reading the folders that measurements leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from medusa_apar.heads.checkpoints.checkpoint_files import first_line, read_json
from medusa_apar.modes import Mode
from medusa_apar.train.own_text.repetition import LOOPING_BELOW

from ..batch import batch_summary
from ..batch.batch_run import BatchRecord
from ..measurement.store import Record
from ..measurement.tables import OVERALL, Column, Section, counts
from ..quality import measure_summary
from ..speed.speed_tables import speed_tables
from ..speed.summary import ModeTurns
from ..speed.turns import TurnRecord

GroupT = TypeVar("GroupT")
RecordT = TypeVar("RecordT", bound=Record)


@dataclass(frozen=True)
class Measurement:
    """What a folder holds.

    Attributes:
        folder: where it lies.
        title: what was measured, in a few words; a simulation is called one.
        settings: what its figures depend on.
        tables: its figures.
    """

    folder: Path
    title: str
    settings: dict[str, Any]
    tables: list[Section[Any]]


class Quality(Measurement):
    """A measurement of quality; all tables are by category and mode, and the first is that without a judge."""


@dataclass(frozen=True)
class Speed(Measurement):
    """A measurement of speed, or a replay; the first table is by category and mode.

    Attributes:
        records: its turns.
    """

    records: list[TurnRecord]

    @cached_property
    def overall(self) -> Section[ModeTurns]:
        """The first table's rows about all categories together."""
        return overall(self.tables[0])

    @property
    def fastest(self) -> dict[str, Any] | None:
        """The row of this engine's mode with the largest speed-up; None where none was compared with `ar`."""
        compared = [row for row in self.overall.rows if row["speed-up"] is not None]
        own = [row for row in compared if row["mode"] in tuple(Mode) and row["mode"] != Mode.AR]
        return max(own, key=lambda row: float(row["speed-up"].median), default=None)

    def picture(self, question_id: str | None = None) -> TurnRecord | None:
        """The turn whose timeline tells most: of the first turns that do not loop the one with the most threads.

        Of that question alone, if it is named. None where no timeline of such a turn was measured.
        """
        drawn = [record for record in self.records if record.threads and record.mode == Mode.MEDUSA_APAR]
        if question_id is not None:
            drawn = [record for record in drawn if str(record.question_id) == question_id]
        fluent = [record for record in drawn if record.turn == 1 and record.distinct_4grams >= LOOPING_BELOW]
        return max(fluent or drawn, key=lambda record: len(record.threads), default=None)

    def slots(self, turn: TurnRecord) -> dict[str, list[int]]:
        """KV slots held in each step of that turn, by mode of this engine; empty where they were not counted."""
        held = {record.key: record.stats.slots_by_step for record in self.records}
        return {str(mode): slots for mode in Mode if (slots := held.get((turn.question_id, turn.turn, mode)))}


def overall(table: Section[GroupT]) -> Section[GroupT]:
    """The rows about all categories together, of a table by category."""
    groups = {about[1:]: group for about, group in table.groups.items() if about[0] == OVERALL}
    return replace(table, about=table.about[1:], groups=groups)


def read_results(folders: Sequence[Path]) -> list[Measurement]:
    """Read folders of results.

    Raises:
        ValueError: for a folder that holds none yet, or what another version wrote; names it and the remedy.
    """
    results = []
    for folder in folders:
        try:
            results.append(measured := _read_folder(folder))
            _ = [table.rows for table in measured.tables]  # raise here if records lack something
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{folder} holds results of another version ({first_line(error)} is wrong in it); measure again into "
                "another folder"
            ) from error
    return results


def _read_folder(folder: Path) -> Measurement:
    readers = {"turns": _speed, "batches": _batches, "loads": _loads}
    for name, read in readers.items():
        path = folder / f"{name}.jsonl"
        if path.is_file() and (folder / "settings.json").is_file():
            return read(path, read_json(folder / "settings.json"))
    if (folder / "summary.json").is_file():
        return _quality(folder, read_json(folder / "summary.json"))
    raise ValueError(
        f"{folder} holds no results; give folders that eval speed, batch, quality, replay or serving "
        "wrote with --output_dir"
    )


def _records(path: Path, record_type: type[RecordT]) -> list[RecordT]:
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]  # a line that was cut off is measured again when the run goes on
    try:
        records = [record_type.from_json(line) for line in whole.splitlines()]
    except ValueError as error:
        raise ValueError(f"{path}: {error}; measure again into another folder") from error
    if not records:
        raise ValueError(f"{path} holds nothing yet; let the measurement end first")
    return records


def _title(settings: dict[str, Any]) -> str:
    return f"{settings['model']} on {settings['questions']}, {settings['dtype']}"


def _speed(path: Path, settings: dict[str, Any]) -> Speed:
    if "what" in settings:
        title = f"{settings['what']}: {settings['answers']} on a random {settings['backbone']}"
    else:
        title = _title(settings) + ", compiled" * settings["compiled"] + ", int8" * (settings["computed"] == "int8")
    records = _records(path, TurnRecord)
    return Speed(path.parent, title, settings, speed_tables(records, settings["modes"]), records)


def _batches(path: Path, settings: dict[str, Any]) -> Measurement:
    table = batch_summary.summarize(_records(path, BatchRecord), settings["modes"])
    return Measurement(path.parent, f"Batches: {_title(settings)}", settings, [table])


def _loads(path: Path, settings: dict[str, Any]) -> Measurement:
    from ..serving import load_summary  # needs the packages of serving
    from ..serving.load_run import LoadRecord

    title = f"Serving: {settings['model']} on vLLM, {settings['questions']}"
    return Measurement(path.parent, title, settings, load_summary.summarize(_records(path, LoadRecord)))


def _quality(folder: Path, summary: dict[str, Any]) -> Quality:
    settings = summary["settings"]
    title = f"Quality: {settings['answers']} to {settings['questions']}, read by {settings['model']}"
    return Quality(folder, title, settings, [_from_rows(*table) for table in summary["tables"].items()])


def _from_rows(title: str, rows: list[dict[str, Any]]) -> Section[dict[str, Any]]:
    """The table whose rows `summary.json` has."""
    form, note = ".0%", "turns, all: (wins + ties / 2) / comparisons"
    if title == "Ratings":
        form, note = ".2f", "turns, all: mean rating, from 1 to 10"

    def text(figure: Any) -> str:
        return counts(figure) if isinstance(figure, list) else format(figure, form if isinstance(figure, float) else "")

    known: dict[str, Column[Any]] = {column.name: column for column in measure_summary.COLUMNS}
    of_row = {name: itemgetter(name) for name in rows[0] if name not in ("category", "mode")}
    columns = [replace(known.get(name, Column(name, get, text)), figure=get) for name, get in of_row.items()]
    groups = {(row["category"], row["mode"]): row for row in rows}
    return Section(title, ("category", "mode"), columns, groups, "" if of_row.keys() <= known.keys() else note)
