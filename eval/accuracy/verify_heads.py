"""`medusa-apar heads verify`: do heads draft as well when they serve as they did in training?

A file may load and still be read wrongly: shifted by a position, fed before the final norm, beside another backbone. So
the heads decode with their best draft tokens alone, and what is accepted is held against the figure that training
stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from tqdm import tqdm

from medusa_apar.argument_types import ArgumentParser, finite, positive
from medusa_apar.heads.checkpoints.loading import load_heads
from medusa_apar.model import MedusaAparModel
from medusa_apar.output import MedusaAparOutput

from ..measurement.question_sets import load_questions
from ..measurement.setup import load_model

Chat = list[dict[str, str]]
"""Messages with a role and a content."""

FAILED = 1


def main(argv: Sequence[str]) -> int:
    """Run `medusa-apar heads verify` with these arguments; 1 where the heads fall short."""
    parser = ArgumentParser(prog="medusa-apar heads verify", description=__doc__.partition(": ")[2])
    parser.add_argument("path", metavar="PATH", help="folder or hub id of the heads, in any format")
    parser.add_argument("--backbone", metavar="DIR", help="folder or hub id (default: the folder around PATH)")
    parser.add_argument("--against", metavar="DIR", help="heads whose figure counts, where PATH's format has none")
    parser.add_argument("--data", metavar="FILE", help="held-out conversations or questions (default: bundled ones)")
    parser.add_argument("--limit", type=positive, help="take only so many questions, of each category in turn")
    parser.add_argument("--max-new-tokens", type=positive, default=256, help="tokens of an answer")
    least = "share of the draft tokens accepted in training (default: %(default)s)"
    parser.add_argument("--least", type=finite, default=0.5, help=least)
    arguments = parser.parse_args(argv)
    backbone = str(Path(arguments.path).resolve().parent) if arguments.backbone is None else arguments.backbone
    model, tokenizer = load_model(backbone, "auto", arguments.path)
    assert model.heads is not None
    trained_heads = model.heads if arguments.against is None else load_heads(arguments.against)
    trained = trained_heads.config.tokens_per_step
    if trained is None:
        raise ValueError(
            f"{arguments.against or arguments.path} stores no figure of its training to compare with; "
            "give heads that do with --against DIR (`medusa-apar train heads --eval_data` stores it)"
        )
    chats = _chats(arguments.data, tokenizer)[: arguments.limit]
    best = [[0] * length for length in range(1, model.heads.config.num_heads + 1)]
    served = tokens_per_step(
        greedy_answers(model, tokenizer, chats, arguments.max_new_tokens, max_threads=1, medusa_choices=best)
    )
    enough = served - 1 >= arguments.least * (trained - 1)
    Console(highlight=False).print(
        f"{served:.2f} tokens per step with the best draft tokens alone; in training {trained:.2f}: "
        + ("as they should be" if enough else "they fall short; is it the backbone that they were trained on?"),
        soft_wrap=True,
    )
    return 0 if enough else FAILED


def _chats(file: str | None, tokenizer: Any) -> list[Chat]:
    """What is asked in a file, or in the bundled questions."""
    if file is None:
        return [[{"role": "user", "content": question.turns[0]}] for question in load_questions("everyday")]
    from medusa_apar.train.rows.bad_rows import BadRowError, BadRows  # needs the packages of training
    from medusa_apar.train.rows.responses import read_prompts
    from medusa_apar.train.rows.tree_data import prompt_token_ids

    bad_rows = BadRows()
    chats = []
    for response in read_prompts(file, bad_rows):
        try:
            prompt_token_ids(tokenizer, response)
        except BadRowError as error:
            bad_rows.add(str(error), response.place)
        else:
            chats.append(response.question)
    if not chats:
        raise ValueError(f"--data {file}: no usable question (left out: {bad_rows})")
    bad_rows.warn()
    return chats


def greedy_answers(
    model: MedusaAparModel, tokenizer: Any, chats: Sequence[Chat], max_new_tokens: int, **options: Any
) -> Iterator[MedusaAparOutput]:
    """What `generate` gives for each chat in turn.

    Args:
        model: what answers.
        tokenizer: with a chat template.
        chats: messages; each is answered.
        max_new_tokens: of an answer.
        **options: further ones of `generate`.
    """
    for chat in tqdm(chats, desc="decoding", leave=False):
        inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        output: Any = model.generate(
            input_ids=inputs["input_ids"].to(model.device), max_new_tokens=max_new_tokens, do_sample=False,
            return_dict_in_generate=True, **options,
        )  # fmt: skip
        yield output


def tokens_per_step(outputs: Iterable[MedusaAparOutput]) -> float:
    """Tokens that a step brings in answers that were decoded one thread at a time."""
    stats = [output.stats for output in outputs if output.stats is not None]
    return 1 + sum(each.accepted_draft_tokens for each in stats) / max(1, sum(each.steps for each in stats))
