"""Where FastChat's files for a judge are found: given, in the data folder, or on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..measurement.json_lines import parse_line
from ..measurement.question_sets import find_published


def find_file(option: str, given: str | None, in_data_folder: str, on_hub: str) -> Path:
    """A file's path; fetched where it must be.

    Args:
        option: the command's option that names the file.
        given: what the option says, if anything.
        in_data_folder: the path in the folder that the environment variable `MEDUSA_APAR_DATA` names.
        on_hub: the path in the space of MT-Bench.

    Raises:
        ValueError: if the given path is no file.
        OSError: if the file is neither on this machine nor within reach.
    """
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise ValueError(f"{option}={given!r} is no file; give the path of FastChat's file")
        return path
    return find_published(in_data_folder, in_data_folder, on_hub, f"or give its path with {option}")


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The JSON objects of a file of JSON lines, each with its place in the file; blank lines are passed over.

    Raises:
        ValueError: for a line that is none, named by file and number.
    """
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = parse_line(line)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        yield place, row
