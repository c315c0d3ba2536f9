"""A store of measurements that keeps what is finished over an interruption."""

from __future__ import annotations

import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from tqdm.auto import tqdm

from medusa_apar.heads.checkpoints.checkpoint_files import read_json

from .provenance import write_provenance


@dataclass(frozen=True, slots=True)
class Record(ABC):
    """Base of dataclasses that hold one finished measurement.

    Attributes:
        measured: what records are of, in the plural, as in messages and in the name of their file.
    """

    measured: ClassVar[str]

    @property
    @abstractmethod
    def key(self) -> Any:
        """What was measured; unique in a store."""

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        """Read a line that `to_json` wrote.

        Raises:
            ValueError: if it is none.
        """
        row = json.loads(line)
        try:
            return cls._from_row(row)
        except (TypeError, KeyError) as error:
            raise ValueError(f"no record of {cls.measured}: {error}") from error

    @classmethod
    def _from_row(cls, row: dict[str, Any]) -> Self:
        """The record whose fields a row holds; records with dataclasses in their fields read them here."""
        return cls(**row)

    def to_json(self) -> bytes:
        """The record as one line."""
        return json.dumps(asdict(self), ensure_ascii=False).encode() + b"\n"


KeyT = TypeVar("KeyT", bound=Hashable)
RecordT = TypeVar("RecordT", bound=Record)


class RecordStore(Generic[KeyT, RecordT]):
    """Finished measurements in a folder: JSON lines written record by record, `settings.json`, provenance.

    The file is named after what its records are of, e.g. `turns.jsonl`.

    A folder belongs to one set of settings, because what was measured differently must not share a table.
    What an interruption left unfinished, the last line without its newline, is dropped.

    Args:
        folder: made if it does not exist.
        settings: everything that the figures depend on; JSON values only.

    Attributes:
        record_type: what the file's lines hold.

    Raises:
        ValueError: if the folder holds records of other settings, or a broken file.
    """

    record_type: type[RecordT]

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.path = folder / f"{self.record_type.measured}.jsonl"
        self.folder = folder
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.records: dict[KeyT, RecordT] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_settings(self.folder / "settings.json")
        write_provenance(self.folder)
        if self.path.exists():
            self._read()
        self._file = self.path.open("ab")

    def _check_settings(self, path: Path) -> None:
        if not path.exists():
            if self.path.exists():
                raise ValueError(f"{self.path} exists without {path.name}; choose another folder with --output_dir")
            unfinished = path.with_suffix(".partial")
            unfinished.write_text(json.dumps(self.settings, indent=2) + "\n", encoding="utf-8")
            os.replace(unfinished, path)
            return
        stored = read_json(path)
        names = sorted(stored.keys() | self.settings.keys())
        changed = [
            f"{name} was {stored.get(name)!r}, is {self.settings.get(name)!r}"
            for name in names
            if stored.get(name) != self.settings.get(name)
        ]
        if changed:
            raise ValueError(
                f"out={str(self.folder)!r} holds a run with other settings ({'; '.join(changed)}); "
                "choose another folder with --output_dir, or repeat the run with its own settings"
            )

    def _read(self) -> None:
        content = self.path.read_bytes()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            os.truncate(self.path, complete)
        for number, line in enumerate(content[:complete].splitlines(), start=1):
            try:
                record = self.record_type.from_json(line)
            except ValueError as error:
                raise ValueError(f"{self.path}, line {number}: {error}") from error
            self.records[record.key] = record

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with suppress(OSError):  # of a record that `add` could not write, and has said so
            self._file.close()
        if kind is KeyboardInterrupt:
            kept = f"{len(self.records)} {self.record_type.measured} are kept"
            print(f"interrupted; {kept}, and the same command goes on from there", file=sys.stderr)

    def __contains__(self, key: KeyT) -> bool:
        return key in self.records

    def __getitem__(self, key: KeyT) -> RecordT:
        return self.records[key]

    def add(self, record: RecordT) -> None:
        """Keep a finished measurement.

        Raises:
            ValueError: it could not be written; names the folder and the remedy.
        """
        try:
            self._file.write(record.to_json())
            self._file.flush()
        except OSError as error:
            raise ValueError(
                f"out={str(self.folder)!r}: the measurement could not be kept ({error}); mend it, and the same command "
                f"goes on after the {len(self.records)} that are kept"
            ) from error
        self.records[record.key] = record

    def fill(
        self,
        wanted: Iterable[KeyT],
        measure: Callable[[KeyT], RecordT],
        *,
        label: Callable[[KeyT], str],
        warm_up: Callable[[], None] = lambda: None,
    ) -> None:
        """Measure what is missing, in the given order, with a progress bar; an interruption keeps what is finished.

        Args:
            wanted: all that the store is to hold.
            measure: measures one.
            label: of what is being measured, beside the bar.
            warm_up: is called first if anything is missing.
        """
        keys = list(wanted)
        missing = [key for key in keys if key not in self]
        if missing:
            warm_up()
        with tqdm(
            missing, initial=len(keys) - len(missing), total=len(keys), unit=f" {self.record_type.measured}"
        ) as progress:
            for key in progress:
                progress.set_postfix_str(label(key))
                self.add(measure(key))


def rotated(systems: Sequence[str], turn: int) -> list[str]:
    """The systems from place `turn` on, then the others: no system is always measured after the same one."""
    first = turn % len(systems)
    return [*systems[first:], *systems[:first]]
