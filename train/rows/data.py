"""`medusa-apar train data`: conversations to tree-packed rows, with a report on their structure.

Responses are read, split and written a shard at a time, so that a corpus of any size fits; an interrupted run
resumes after its last whole shard.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from medusa_apar.fingerprint import of_files

from ..command_line import InputError, Positional, run
from .bad_rows import BadRows
from .conversations import Response
from .responses import read_responses
from .row_arguments import RowArguments, add_control_tokens, check_exist
from .shards import Shards, digest
from .structure_report import StructureFigures, write_report
from .tree_data import TreeDataset

logger = logging.getLogger(__name__)

RESPONSES = 1024
"""In a shard."""


def make_rows(
    files: Sequence[str], tokenizer: PreTrainedTokenizerBase, shards: Shards, arguments: RowArguments
) -> BadRows:
    """Write the rows of all responses of some files.

    Args:
        files: conversations, in any format of `read_responses`.
        tokenizer: has a chat template, an EOS and the control tokens.
        shards: where the rows go; what is there already is not made again.
        arguments: how responses become rows; `structured_share` is that of each shard.

    Returns:
        What could not be read.
    """
    unreadable = BadRows()
    responses = (response for file in files for response in read_responses(file, unreadable))
    done = sum(figures["responses"] for figures in shards.figures)
    for _ in tqdm(islice(responses, done), desc="responses that are done", total=done, disable=not done):
        pass
    with tqdm(desc="responses", initial=done) as bar:
        for batch in _batches(responses, RESPONSES):
            dataset = TreeDataset(
                batch, tokenizer,
                max_length=arguments.max_length, rules=arguments.structure,
                structured_share=arguments.structured_share, flat_share=arguments.flat_share, seed=len(shards.figures),
            )  # fmt: skip
            shards.add(
                dataset.rows,
                {
                    "responses": len(batch),
                    "structured": dataset.structured,
                    "flat": dataset.flat,
                    "unstructured": dataset.unstructured,
                    "rows": len(dataset),
                    "tokens": sum(map(len, dataset.rows)),
                    "bad_rows": asdict(dataset.bad_rows),
                    "thinned": dataset.thinned,
                    "structure": StructureFigures.of(batch, tokenizer, arguments.structure).to_dict(),
                },
            )
            bar.update(len(batch))
    return unreadable


def _batches(responses: Iterable[Response], size: int) -> Iterator[list[Response]]:
    responses = iter(responses)
    while batch := list(islice(responses, size)):
        yield batch


def left_out(shards: Shards, unreadable: BadRows, arguments: RowArguments) -> str:
    """What is in no row, by reason."""
    bad_rows = BadRows()
    bad_rows.update(unreadable)
    for each in shards.figures:
        bad_rows.update(BadRows(**each["bad_rows"]))
    thinned = sum(each["thinned"] for each in shards.figures)
    if not thinned:
        return str(bad_rows)
    reason = f"{thinned} x thinned to structured_share={arguments.structured_share}"
    return f"{bad_rows}; {reason}" if bad_rows.counts else reason


def report(shards: Shards, left_out: str) -> str:
    """Write the report on all shards, and return its table."""
    figures = StructureFigures.total(StructureFigures.from_dict(each["structure"]) for each in shards.figures)
    names = ("responses", "structured", "flat", "unstructured", "rows", "tokens")
    corpus: dict[str, Any] = {name: sum(each[name] for each in shards.figures) for name in names}
    corpus["left out"] = left_out
    write_report(shards.folder, figures, corpus)
    return figures.table()


@dataclass(kw_only=True)
class PreparationArguments(RowArguments):
    """How responses become rows, and where these go."""

    output_dir: str = field(metadata={"help": "where rows and report go; what is done is kept"})

    @property
    def settings(self) -> dict[str, Any]:
        """What the rows depend on."""
        return {name: value for name, value in asdict(self).items() if name != "output_dir"}


def prepare_data(files: Sequence[str], arguments: PreparationArguments) -> Path:
    """Make rows and a report of conversations; resumes after the last whole shard.

    Raises:
        InputError: the conversations cannot be read, or none is left for a row. A folder without rows is removed.
    """
    check_exist("FILE", files)
    tokenizer = arguments.tokenizer()
    add_control_tokens(tokenizer)
    folder = Path(arguments.output_dir)
    contents = [of_files(Path(file)) for file in files]
    settings = {**arguments.settings, "files": list(files), "contents": contents, "tokenizer": digest(tokenizer)}
    try:
        shards = Shards(folder, settings)
        try:
            unreadable = make_rows(files, tokenizer, shards, arguments)
            missing = left_out(shards, unreadable, arguments)
            if not shards.has_rows:
                raise InputError(
                    f"FILE {' '.join(files)}: no usable conversation (left out: {missing}); give other conversations, "
                    "or another --max_length or --structured_share if these leave all out"
                )
        except InputError:
            if not shards.has_rows:
                shards.remove()
            raise
        if missing != str(BadRows()):
            logger.warning("left out: %s", missing)
        print(report(shards, missing))
    except OSError as error:
        raise InputError(f"--output_dir {folder}: {error}; mend it and run again, whole shards are kept") from error
    return folder


def main(argv: Sequence[str]) -> None:
    """Run `medusa-apar train data` with these arguments."""
    files = Positional("FILE", "conversations", many=True)
    run(prepare_data, (PreparationArguments,), "medusa-apar train data", argv, positional=files)
