"""Arguments that say how responses become tree-packed rows, and what they give."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from medusa_apar.checkpoint import load_tokenizer
from medusa_apar.tree.control_tokens import CHILD, FORK, ControlTokens

from ..command_line import InputError
from ..structure import RULES, Rule, Rules
from .bad_rows import BadRows
from .responses import read_responses
from .shards import ShardedRows, is_shards, settings_of
from .tree_data import TreeDataset, TreeRow

logger = logging.getLogger(__name__)

MOST = 1000
"""Depth or parts beyond which an argument is a typing error."""


@dataclass(kw_only=True)
class RowArguments:
    """How responses become rows."""

    model: str = field(metadata={"help": "folder or hub id of the backbone"})
    max_length: int = field(default=2048, metadata={"help": "tokens in a tree-packed row"})
    rules: list[str] = field(
        default_factory=lambda: sorted(RULES.rules), metadata={"choices": sorted(Rule), "help": "what makes forks"}
    )
    max_depth: int = field(default=RULES.max_depth, metadata={"help": "of threads; the main one has depth 1"})
    min_items: int = field(default=RULES.min_items, metadata={"help": "parts that a structure has at least"})
    structured_share: float | None = field(
        default=None,
        metadata={"help": "share of responses with a paragraph tree (default: all responses, as they are)"},
    )
    flat_share: float = field(
        default=0.0,
        metadata={"help": "share of these that are learned as text without forks, as modes without forks write it"},
    )

    def __post_init__(self) -> None:
        if not 0 <= self.flat_share <= 1:
            raise InputError(f"--flat_share {self.flat_share} is not between 0 and 1; give a share")

    @property
    def structure(self) -> Rules:
        """The rules that the arguments name."""
        for name in ("max_depth", "min_items"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"--{name} {value} is below 1; give a positive number")
            if value > MOST:
                raise InputError(f"--{name} {value} is above {MOST}; give less")
        return Rules(frozenset(map(Rule, self.rules)), self.max_depth, self.min_items)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The backbone's tokenizer.

        Raises:
            InputError: if files are missing, or the tokenizer lacks what conversations need.
        """
        return load_chat_tokenizer(self.model)

    def rows(self, files: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Dataset[TreeRow]:
        """Rows of conversations, or those that `medusa-apar train data` has made, as they are.

        Args:
            files: conversations, or one folder of prepared rows.
            tokenizer: with the control tokens.

        Raises:
            InputError: nothing is left, or prepared rows do not fit the tokenizer or the length.
        """
        prepared = [file for file in files if is_shards(Path(file))]
        if prepared:
            if len(files) > 1:
                raise InputError(f"--data {prepared[0]}: prepared rows stand alone; give no other files beside them")
            folder = Path(prepared[0])
            made = settings_of(folder)
            for name in ("rules", "max_depth", "min_items", "structured_share", "flat_share"):
                if made[name] != getattr(self, name):
                    logger.warning(
                        "--data %s: its rows were made with %s=%s, and --%s %s changes nothing there",
                        folder, name, made[name], name, getattr(self, name),
                    )  # fmt: skip
            return ShardedRows(folder, tokenizer, self.max_length)
        bad_rows = BadRows()
        responses = (response for file in files for response in read_responses(file, bad_rows))
        dataset = TreeDataset(
            responses, tokenizer,
            max_length=self.max_length, rules=self.structure, structured_share=self.structured_share,
            flat_share=self.flat_share, bad_rows=bad_rows,
        )  # fmt: skip
        if not len(dataset) + dataset.thinned:
            raise InputError(f"--data {' '.join(files)}: no usable response (left out: {bad_rows})")
        if not len(dataset):
            raise InputError(
                f"structured_share={self.structured_share} leaves nothing of {dataset.found}; give data of both kinds, "
                f"or a share of 1 or 0 for data of one kind (left out before: {bad_rows})"
            )
        bad_rows.warn()
        logger.info(
            "%s: %d structured, %d flat and %d unstructured responses of %s in %d rows of up to %d tokens",
            ", ".join(files), dataset.structured, dataset.flat, dataset.unstructured, dataset.found,
            len(dataset), self.max_length,
        )  # fmt: skip
        return dataset


def load_chat_tokenizer(model: str, argument: str = "--model") -> PreTrainedTokenizerBase:
    """The tokenizer of a chat model.

    Args:
        model: its folder or hub id.
        argument: what names it, for errors.

    Raises:
        InputError: if files are missing, or the tokenizer lacks what conversations need.
    """
    path = Path(model)
    is_path = model.startswith(".") or len(path.parts) > 2 or (len(path.parts) == 2 and path.parent.is_dir())
    if is_path and not path.is_dir():
        raise InputError(f"{argument} {model}: no such folder; give one with a model and its tokenizer, or a hub id")
    try:
        tokenizer = load_tokenizer(model)
    except (OSError, ValueError) as error:
        raise InputError(f"{argument} {model}: {error}") from error
    for name, value in (("chat template", tokenizer.chat_template), ("EOS token", tokenizer.eos_token_id)):
        if value is None:
            raise InputError(f"{argument} {model}: its tokenizer has no {name}; set one and save the tokenizer again")
    return tokenizer


def check_exist(name: str, files: Sequence[str]) -> None:
    """Raise an InputError for a file that an argument names and that is not there."""
    for file in files:
        if not Path(file).exists():
            raise InputError(f"{name} {file}: no such file; give one with conversations")


def add_control_tokens(tokenizer: PreTrainedTokenizerBase) -> ControlTokens:
    """Give a tokenizer `[Fork]` and `[Child]` where they are missing."""
    try:
        return ControlTokens.of_tokenizer(tokenizer)
    except ValueError:
        tokenizer.add_special_tokens({"extra_special_tokens": [FORK, CHILD]}, replace_extra_special_tokens=False)
        return ControlTokens.of_tokenizer(tokenizer)
