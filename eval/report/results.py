"""Reading the folders that measurements leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medusa_apar.heads.checkpoint_files import first_line, read_json
from medusa_apar.modes import Mode
from medusa_apar.train.own_text.repetition import LOOPING_BELOW

from ..speed.summary import OVERALL, SummaryRow, summarize
from ..speed.turns import TurnRecord
from .sweeps import Sweep, read_records, read_sweep


@dataclass(frozen=True)
class SpeedResults:
    """A measurement of speed, or a replay.

    Attributes:
        folder: where it lies.
        settings: what its figures depend on.
        records: its turns.
    """

    folder: Path
    settings: dict[str, Any]
    records: tuple[TurnRecord, ...]

    @property
    def title(self) -> str:
        """What was measured, in a few words; a simulation is called one."""
        if "what" in self.settings:
            return f"{self.settings['what']}: {self.settings['answers']} on a random {self.settings['backbone']}"
        compiled = ", compiled" if self.settings.get("compiled") else ""
        return f"{self.settings['model']} on {self.settings['questions']}, {self.settings['dtype']}{compiled}"

    @property
    def modes(self) -> list[str]:
        """What was compared."""
        return list(self.settings["modes"])

    @cached_property
    def rows(self) -> list[SummaryRow]:
        """Figures per category and mode, and overall."""
        return summarize(self.records, self.modes)

    @property
    def overall(self) -> list[SummaryRow]:
        """Figures per mode."""
        return [row for row in self.rows if row.category == OVERALL]

    @property
    def fastest(self) -> SummaryRow | None:
        """The mode of this engine with the largest speed-up; None where none was compared with `ar`."""
        own = [row for row in self.overall if row.mode in tuple(Mode) and row.mode != Mode.AR and row.speed_up]
        return max(own, key=lambda row: row.speed_up.median if row.speed_up else 0.0, default=None)

    def picture(self, question_id: str | None = None) -> TurnRecord | None:
        """The turn whose timeline tells most: of the first turns that do not loop the one with the most threads.

        Args:
            question_id: of the question that is wanted in its place.

        Returns:
            None where no timeline of such a turn was measured.
        """
        drawn = [record for record in self.records if record.threads and record.mode == Mode.MEDUSA_APAR]
        if question_id is not None:
            drawn = [record for record in drawn if str(record.question_id) == question_id]
        fluent = [record for record in drawn if record.turn == 1 and record.distinct_4grams >= LOOPING_BELOW]
        return max(fluent or drawn, key=lambda record: len(record.threads), default=None)

    def of(self, question_id: int | str, turn: int, mode: str) -> TurnRecord | None:
        """The record of a turn in a mode, if there is one."""
        return next((record for record in self.records if record.key == (question_id, turn, mode)), None)


@dataclass(frozen=True, slots=True)
class QualityResults:
    """A measurement of quality.

    Attributes:
        folder: where it lies.
        summary: what its `summary.json` holds.
    """

    folder: Path
    summary: dict[str, Any]

    @property
    def title(self) -> str:
        """What was measured, in a few words."""
        settings = self.summary["settings"]
        return f"{settings['answers']} to {settings['questions']}, read by {settings['model']}"

    @property
    def measures(self) -> list[dict[str, Any]]:
        """Judge-free figures per mode."""
        return [row for row in self.summary["measures"] if row["category"] == OVERALL]

    @property
    def scores(self) -> list[dict[str, Any]]:
        """A judge's ratings per mode, if one was asked."""
        return [row for row in self.summary["scores"] if row["category"] == OVERALL and row["turn"] is None]

    @property
    def pairs(self) -> dict[str, dict[str, Any]]:
        """A judge's comparisons with the baseline by mode, if one was asked."""
        overall = [row for row in self.summary["pairs"] if row["category"] == OVERALL and row["turn"] is None]
        return {row["mode"]: row for row in overall}


@dataclass(frozen=True, slots=True)
class Results:
    """What a page shows.

    Attributes:
        speed: measurements of speed, the one of the headline first.
        quality: measurements of quality.
        sweeps: measurements of something that grows.
    """

    speed: list[SpeedResults]
    quality: list[QualityResults]
    sweeps: list[Sweep]


def read_results(folders: Sequence[Path]) -> Results:
    """Read folders of results.

    Raises:
        ValueError: for a folder that holds none, or what another version wrote; names it and the remedy.
    """
    results = Results([], [], [])
    for folder in folders:
        try:
            _read_folder(folder, results)
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{folder} holds results of another version ({first_line(error)} is wrong in it); measure again into "
                "another folder"
            ) from error
    return results


def _read_folder(folder: Path, results: Results) -> None:
    turns, summary = folder / "turns.jsonl", folder / "summary.json"
    if turns.is_file() and (folder / "settings.json").is_file():
        settings = read_json(folder / "settings.json")
        speed = SpeedResults(folder, settings, tuple(read_records(turns, TurnRecord)))
        _ = speed.title, speed.rows  # raise here if settings or records lack something
        results.speed.append(speed)
    elif (sweep := read_sweep(folder)) is not None:
        results.sweeps.append(sweep)
    elif summary.is_file() and "measures" in (found := read_json(summary)):
        quality = QualityResults(folder, found)
        _ = quality.title  # raises here if the summary lacks it
        results.quality.append(quality)
    else:
        raise ValueError(
            f"{folder} holds no results; give folders that eval speed, batch, quality, replay, scaling or serving "
            "wrote with --output_dir"
        )
