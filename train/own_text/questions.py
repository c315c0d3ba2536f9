"""`medusa-apar train questions`: let a chat model write questions.

Source: Magpie (Xu et al. 2024, arXiv 2406.08464): the user's turn of the chat template is opened, and the model samples
what a user would say.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from medusa_apar.checkpoint import load_backbone
from medusa_apar.linears.dtype import default_dtype
from medusa_apar.model import MedusaAparModel

from ..batch_log import BatchLog
from ..claims import settle
from ..command_line import InputError, run
from ..prompt_batch import BATCHES_IN_A_CALL
from ..rows.bad_rows import BadRows
from ..rows.responses import read_questions
from ..rows.row_arguments import check_exist, load_chat_tokenizer
from .question_filter import QuestionFilter
from .row_files import write_rows
from .user_turn import OpenUserTurn

logger = logging.getLogger(__name__)

LEAST_SHARE = 0.02
"""Of samples that are usable; a model that writes fewer does not write questions."""
_PATIENCE = 300
"""Samples before that is judged."""


@dataclass(kw_only=True)
class QuestionArguments:
    """Which model writes questions, and how many."""

    model: str = field(metadata={"help": "folder or hub id of a chat model"})
    output: str = field(metadata={"help": "file of JSON lines that the questions go to; samples are kept beside it"})
    questions: int = field(default=1000, metadata={"help": "how many to write"})
    exclude: list[str] | None = field(
        default=None, metadata={"help": "files with questions that are refused; those of benchmarks always are"}
    )
    temperature: float = field(default=1.0, metadata={"help": "of sampling"})
    top_p: float = field(default=0.95, metadata={"help": "of sampling"})
    max_new_tokens: int = field(default=128, metadata={"help": "of a question; longer ones are left out"})
    batch_size: int = field(default=32, metadata={"help": "samples that are written together"})
    seed: int = field(default=0, metadata={"help": "of sampling"})

    def __post_init__(self) -> None:
        for name in ("questions", "max_new_tokens", "batch_size"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"--{name} {value} is below 1; give a positive number")

    @property
    def settings(self) -> dict[str, Any]:
        """What the samples depend on."""
        names = ("model", "temperature", "top_p", "max_new_tokens", "batch_size", "seed")
        return {name: getattr(self, name) for name in names}


def write_questions(arguments: QuestionArguments) -> Path:
    """Sample until there are as many usable questions as asked for; resumes after the last whole call of `generate`."""
    check_exist("--exclude", arguments.exclude or [])
    output = Path(arguments.output)
    samples = output.with_suffix(".samples.jsonl")
    tokenizer = load_chat_tokenizer(arguments.model)
    turn = OpenUserTurn.of(tokenizer)
    settle(samples.with_suffix(".settings.json"), arguments.settings, f"--output {output}: holds questions with")
    log = BatchLog(samples)
    left_out = BadRows()
    questions: list[str] = []
    known = QuestionFilter(
        message["content"]
        for file in arguments.exclude or ()
        for messages, _ in read_questions(file, BadRows())
        for message in messages
        if message["role"] == "user"
    )

    def take(batch: dict[str, Any], place: str) -> int:
        before = len(questions)
        for text in batch["samples"]:
            reason = "longer than --max_new_tokens" if text is None else known.reason_against(text)
            if reason is None:
                questions.append(text)
            else:
                left_out.add(reason, place)
        return len(questions) - before

    model: MedusaAparModel | None = None
    most = BATCHES_IN_A_CALL * arguments.batch_size
    with tqdm(desc="questions", total=arguments.questions) as bar:
        for number, batch in enumerate(log.batches, start=1):
            bar.update(take(batch, f"{samples.name}:{number}"))
        while len(questions) < arguments.questions:
            if model is None:
                model = MedusaAparModel(load_backbone(arguments.model, dtype=default_dtype()), weights="auto")
                model.to("cuda" if torch.cuda.is_available() else "cpu")
            wanted = arguments.questions - len(questions) + arguments.batch_size
            log.add({"samples": _sample(model, tokenizer, turn, arguments, min(wanted, most), len(log.batches))})
            bar.update(take(log.batches[-1], f"{samples.name}:{len(log.batches)}"))
            drawn = sum(len(batch["samples"]) for batch in log.batches)
            if drawn >= _PATIENCE and len(questions) < LEAST_SHARE * drawn:
                raise InputError(
                    f"--model {arguments.model}: {len(questions)} of {drawn} samples are questions (others: "
                    f"{left_out}); give questions by --data"
                )
    write_rows(output, ({"prompt": question} for question in questions[: arguments.questions]))
    logger.info("%d questions in %s; left out: %s", arguments.questions, output, left_out)
    return output


def _sample(
    model: MedusaAparModel, tokenizer: Any, turn: OpenUserTurn, arguments: QuestionArguments, count: int, number: int
) -> list[str | None]:
    """Texts of call `number` of `generate`; None for one that has no end."""
    prompts = torch.tensor([turn.token_ids] * count, device=model.device)
    output: Any = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=True,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        top_k=0,
        max_new_tokens=arguments.max_new_tokens,
        eos_token_id=turn.end_token_ids,
        pad_token_id=turn.end_token_ids[0],
        apar=False,
        max_batch=arguments.batch_size,
        seed=arguments.seed + number,
        return_dict_in_generate=True,
    )
    texts: list[str | None] = []
    for tree in output.trees:
        ids = tree.answer_token_ids()
        ended = bool(ids) and ids[-1] in turn.end_token_ids
        texts.append(tokenizer.decode(ids, skip_special_tokens=True).strip() if ended else None)
    return texts


def main(argv: Sequence[str]) -> None:
    """Run `medusa-apar train questions` with these arguments."""
    run(write_questions, (QuestionArguments,), "medusa-apar train questions", argv)
