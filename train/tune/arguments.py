"""Arguments of `medusa-apar tune`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medusa_apar.fingerprint import of_files

from ..command_line import InputError
from ..rows.row_arguments import check_exist


@dataclass(kw_only=True)
class TuneArguments:
    """What to make of a chat model, and in how much time."""

    output_dir: str = field(metadata={"help": "where adapter, heads and model card go; an interrupted run goes on"})
    budget_hours: float = field(default=8.0, metadata={"help": "what all stages may take together"})
    questions: int | None = field(
        default=None, metadata={"help": "how many the model writes and answers (default: as many as fit the budget)"}
    )
    data: list[str] | None = field(
        default=None,
        metadata={"help": "files with questions, in any format that training reads (default: the model writes them)"},
    )
    exclude: list[str] | None = field(
        default=None, metadata={"help": "files with questions that are refused; those of benchmarks always are"}
    )
    max_new_tokens: int = field(default=512, metadata={"help": "of an answer"})
    max_length: int = field(default=1024, metadata={"help": "tokens in a row of training"})
    lora_rank: int = field(default=16, metadata={"help": "rank of the adapter's matrices"})
    kind: str = field(
        default="sequential",
        metadata={"choices": ["medusa", "sequential", "eagle3"], "help": "kind of the draft heads"},
    )
    num_heads: int = field(default=4, metadata={"help": "tokens that are drafted ahead"})
    draft_vocab_size: int = field(default=8192, metadata={"help": "tokens among which the heads choose"})
    seed: int = field(default=0, metadata={"help": "of sampling and training"})

    def __post_init__(self) -> None:
        if not self.budget_hours > 0:
            raise InputError(f"--budget_hours {self.budget_hours:g} is no time; give a positive number")
        for name in ("questions", "max_new_tokens", "max_length", "lora_rank", "num_heads", "draft_vocab_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name} {value} is below 1; give a positive number")
        if self.exclude and self.data:
            raise InputError(
                f"--exclude {' '.join(self.exclude)}: is for questions that the model writes; leave it out with --data"
            )
        if self.max_length <= self.max_new_tokens:
            raise InputError(
                f"--max_length {self.max_length} has no room for a question and its answer of up to --max_new_tokens "
                f"{self.max_new_tokens}; give a larger one"
            )

    def check_files(self) -> None:
        """Raise an InputError for a file that is not there."""
        check_exist("--data", self.data or [])
        check_exist("--exclude", self.exclude or [])

    def settings(self, model: str) -> dict[str, Any]:
        """What the result depends on, beside the time that there is."""
        contents = {name: [of_files(Path(file)) for file in getattr(self, name) or []] for name in ("data", "exclude")}
        kept = {name: value for name, value in asdict(self).items() if name not in ("output_dir", "budget_hours")}
        return {"model": model, **kept, "contents": contents}
