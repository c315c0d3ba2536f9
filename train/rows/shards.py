"""Tree-packed rows on disk: parquet shards that are read back without being held in memory.

A shard holds the rows of so many responses, and beside it stand the figures of these responses. A run that was cut off
resumes after the last whole shard.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from medusa_apar.heads.checkpoints.checkpoint_files import read_json

from ..claims import settle
from ..command_line import InputError
from .tree_data import TreeRow

SCHEMA = pa.schema(
    [(field.name, pa.list_(pa.bool_() if field.name == "prompt" else pa.int32())) for field in fields(TreeRow)]
)
SETTINGS = "settings.json"
NEEDED = ("model", "tokenizer", "max_length", "rules", "max_depth", "min_items", "structured_share")
"""Settings that every folder of rows has."""
REPORT = "report.json"
"""Is written once all shards are."""


class Shards:
    """A folder of shards.

    Args:
        folder: where they are; made if it is missing.
        settings: all that the rows depend on. JSON-compatible.

    Raises:
        InputError: the folder holds shards of other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        settle(folder / SETTINGS, settings, f"--output_dir {folder}: its rows were made with")
        self.figures: list[dict[str, Any]] = []
        """What was written beside each whole shard, in order."""
        while (path := self._path(len(self.figures), "json")).exists():
            self.figures.append(json.loads(path.read_text(encoding="utf-8")))

    def add(self, rows: list[TreeRow], figures: dict[str, Any]) -> None:
        """Write one more shard; a run that is killed meanwhile leaves none."""
        number = len(self.figures)
        table = pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)
        path = self._path(number, "parquet")
        partial = path.with_suffix(".partial")
        pq.write_table(table, partial, compression="zstd")
        partial.replace(path)
        partial.write_text(json.dumps(figures), encoding="utf-8")
        partial.replace(self._path(number, "json"))
        self.figures.append(figures)

    @property
    def has_rows(self) -> bool:
        """Whether a shard has a row."""
        return any(each["rows"] for each in self.figures)

    def remove(self) -> None:
        """Remove the shards and their settings, and the folder if nothing else is in it."""
        for number in range(len(self.figures)):
            for suffix in ("parquet", "json"):
                self._path(number, suffix).unlink()
        (self.folder / SETTINGS).unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"rows-{number:05}.{suffix}"


class ShardedRows(Dataset[TreeRow]):
    """The rows of a folder of shards, read as they are asked for.

    Args:
        folder: of shards.
        tokenizer: which they have to be made with.
        max_length: tokens that a row may have.

    Raises:
        InputError: they were made with another tokenizer, are longer, or there are none.
    """

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        settings = settings_of(folder)
        if settings["tokenizer"] != digest(tokenizer):
            raise InputError(
                f"{folder}: its rows were made with the tokenizer of {settings['model']}, another one than that of "
                f"{tokenizer.name_or_path}; make them again with it (`medusa-apar train data`)"
            )
        if settings["max_length"] > max_length:
            raise InputError(
                f"{folder}: its rows have up to {settings['max_length']} tokens, more than --max_length {max_length}; "
                "make them again with a smaller one, or give a larger one here"
            )
        if not (folder / REPORT).is_file():
            raise InputError(
                f"{folder}: is not finished; run its `medusa-apar train data` again, whole shards are kept"
            )
        shards = sorted(folder.glob("rows-*.parquet"))
        files = [
            str(path) for path in shards if pq.read_metadata(path).num_rows
        ]  # `datasets` fails on one without rows
        self._rows = datasets.load_dataset("parquet", data_files=files, split="train") if files else []
        if not len(self._rows):
            raise InputError(f"{folder}: holds no rows; `medusa-apar train data` makes them")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> TreeRow:
        return TreeRow(**self._rows[index])


def is_shards(path: Path) -> bool:
    """Whether a path is a folder of shards."""
    return (path / SETTINGS).is_file()


def settings_of(folder: Path) -> dict[str, Any]:
    """All that the rows of a folder depend on.

    Raises:
        InputError: they are the settings of something else.
    """
    settings = read_json(folder / SETTINGS)
    missing = [name for name in NEEDED if name not in settings]
    if missing:
        raise InputError(
            f"{folder}: holds something else than the rows of `medusa-apar train data` ({SETTINGS} has no "
            f"{', '.join(missing)}); give a folder of rows, or files of conversations"
        )
    return settings


def digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of a tokenizer's vocabulary and chat template."""
    text = json.dumps([sorted(tokenizer.get_vocab().items()), tokenizer.chat_template])
    return sha256(text.encode()).hexdigest()[:16]
