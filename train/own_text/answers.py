"""`medusa-apar train answers`: let a chat model answer questions, and keep the answers that a reader wants.

A model that is tuned on its own answers keeps saying what it said. Answers that loop or have a broken structure are
left out, and answers that reach the limit are cut at their last whole line.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from medusa_apar.checkpoint import load_backbone
from medusa_apar.fingerprint import of_files
from medusa_apar.linears.dtype import default_dtype
from medusa_apar.model import MedusaAparModel

from ..batch_log import BatchLog
from ..claims import settle
from ..command_line import InputError, run
from ..prompt_batch import left_padded, split_into_calls
from ..rows.bad_rows import BadRowError, BadRows
from ..rows.conversations import Message
from ..rows.responses import read_questions
from ..rows.row_arguments import check_exist, load_chat_tokenizer
from ..rows.tree_data import template_token_ids
from .defects import defects
from .known_questions import benchmarks, shingles_of
from .repetition import LOOPING_BELOW, distinct_ngrams
from .row_files import write_rows

logger = logging.getLogger(__name__)

WAYS: tuple[dict[str, Any], ...] = (
    {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "repetition_penalty": 1.05},
    {"do_sample": True, "temperature": 0.2, "top_p": 0.9, "repetition_penalty": 1.05},
    {"do_sample": False, "repetition_penalty": 1.05},
)
"""How calls of `generate` answer in turn."""
_NGRAM = 4


@dataclass(kw_only=True)
class AnswerArguments:
    """Which model answers which questions."""

    model: str = field(metadata={"help": "folder or hub id of a chat model"})
    data: list[str] = field(
        metadata={"help": "files with questions; answers in them are not read, and those of benchmarks left out"}
    )
    output: str = field(
        metadata={"help": "file of JSON lines for questions and answers; all that is made is kept beside it"}
    )
    max_new_tokens: int = field(default=512, metadata={"help": "of an answer; longer ones are cut at a whole line"})
    limit: int | None = field(default=None, metadata={"help": "answer only the first questions"})
    batch_size: int = field(default=32, metadata={"help": "questions that are answered together"})
    seed: int = field(default=0, metadata={"help": "of sampling"})

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "limit", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name} {value} is below 1; give a positive number")


def write_answers(arguments: AnswerArguments) -> Path:
    """Answer all questions; resumes after the last finished call of `generate`."""
    check_exist("--data", arguments.data)
    output = Path(arguments.output)
    made = output.with_suffix(".made.jsonl")
    tokenizer = load_chat_tokenizer(arguments.model)
    questions = _questions(arguments.data, tokenizer)[: arguments.limit]
    settings = {
        "model": arguments.model,
        "contents": [of_files(Path(file)) for file in arguments.data],
        "limit": arguments.limit,
        "max_new_tokens": arguments.max_new_tokens,
        "batch_size": arguments.batch_size,
        "seed": arguments.seed,
    }
    settle(made.with_suffix(".settings.json"), settings, f"--output {output}: holds answers with")
    log = BatchLog(made)
    batches = split_into_calls(questions, arguments.batch_size, len(WAYS))
    if len(log.batches) < len(batches):
        model = MedusaAparModel(load_backbone(arguments.model, dtype=default_dtype()), weights="auto")
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        answered = sum(map(len, batches[: len(log.batches)]))
        with tqdm(desc="answers", initial=answered, total=len(questions)) as bar:
            for number in range(len(log.batches), len(batches)):
                log.add({"answers": _answer(model, tokenizer, batches[number], arguments, number)})
                bar.update(len(batches[number]))
    left_out = BadRows()
    kept = [
        {"messages": [*question.messages, {"role": "assistant", "content": text}]}
        for number, (batch, answered) in enumerate(zip(batches, log.batches, strict=False), start=1)
        for question, answer in zip(batch, answered["answers"], strict=True)
        if (text := _usable(answer, f"{made.name}:{number}", left_out)) is not None
    ]
    write_rows(output, kept)
    logger.info("%d of %d answers in %s; left out: %s", len(kept), len(questions), output, left_out)
    return output


@dataclass(frozen=True, slots=True)
class _Question:
    messages: list[Message]
    token_ids: list[int]


def _questions(files: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[_Question]:
    """Every question once, as the chat template has it; those of benchmarks are left out."""
    bad_rows = BadRows()
    found: dict[str, _Question] = {}
    for file in files:
        for messages, place in read_questions(file, bad_rows):
            key = json.dumps(messages)
            if key in found:
                continue
            if any(benchmarks().holds(shingles_of(text)) for text in _asked(messages)):
                bad_rows.add("of a benchmark", place)
                continue
            try:
                found[key] = _Question(messages, template_token_ids(tokenizer, messages))
            except BadRowError as error:
                bad_rows.add(str(error), place)
    if not found:
        raise InputError(f"--data {' '.join(files)}: no usable question (left out: {bad_rows})")
    bad_rows.warn()
    return list(found.values())


def _asked(messages: Sequence[Message]) -> list[str]:
    return [message["content"] for message in messages if message["role"] == "user"]


def _answer(
    model: MedusaAparModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[_Question],
    arguments: AnswerArguments,
    number: int,
) -> list[dict[str, Any]]:
    """Answers of call `number`: text, whether it ended by itself, the share of distinct 4-grams, and tokens."""
    output: Any = model.generate(
        **left_padded([question.token_ids for question in questions], tokenizer, model.device),
        max_batch=arguments.batch_size,
        max_new_tokens=arguments.max_new_tokens,
        apar=False,
        seed=arguments.seed + number,
        return_dict_in_generate=True,
        **WAYS[number % len(WAYS)],
    )
    answers = []
    for tree in output.trees:
        ids = tree.answer_token_ids()
        answers.append(
            {
                "text": str(tokenizer.decode(ids, skip_special_tokens=True)).strip(),
                "complete": tree.threads[0].finish_reason == "eos",
                "distinct": round(distinct_ngrams(ids, _NGRAM), 3),
                "tokens": len(ids),
            }
        )
    return answers


def _usable(answer: dict[str, Any], place: str, left_out: BadRows) -> str | None:
    """The text of an answer; None, and counted, where it loops, is broken or has no whole line."""
    text = str(answer["text"])
    if not answer["complete"]:
        text = text.rpartition("\n")[0].rstrip()
    if not text:
        left_out.add("without a whole line", place)
    elif answer["distinct"] < LOOPING_BELOW:
        left_out.add("looping", place)
    elif broken := defects(text):
        left_out.add(f"with a broken structure ({broken[0]})", place)
    else:
        return text
    return None


def main(argv: Sequence[str]) -> None:
    """Run `medusa-apar train answers` with these arguments."""
    run(write_answers, (AnswerArguments,), "medusa-apar train answers", argv)
