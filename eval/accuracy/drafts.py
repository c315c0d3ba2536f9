"""`medusa-apar eval heads`: what heads draft on answers to held-out questions, and what that is worth without threads.

The backbone answers each question greedily, in threads, as it serves. Heads are asked at every place of these answers,
given the right tokens before their draft token. Then the questions are answered without threads, with trees of several
sizes: Medusa alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedTokenizerBase

from medusa_apar.argument_types import positives
from medusa_apar.model import MedusaAparModel

from ..measurement.question_sets import load_questions
from ..measurement.setup import command_parser, load_model
from ..replay.hits import PUBLISHED
from .verify_heads import Chat, greedy_answers, tokens_per_step

ROWS = 4
"""Answers in a forward pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFigures:
    """What heads are worth on a set of questions.

    Attributes:
        accuracy: per head the top-1 to top-5 accuracy given the right tokens before its draft token.
        chain: tokens per step of a thread with the best draft token of each head alone.
        trees: tokens per step without threads, by the nodes of a step.
    """

    accuracy: list[list[float]]
    chain: float
    trees: dict[int, float]


def measure_heads(
    model: MedusaAparModel,
    tokenizer: PreTrainedTokenizerBase,
    chats: Sequence[Chat],
    max_new_tokens: int,
    nodes: Sequence[int],
) -> HeadFigures:
    """Measure a model's heads on its own greedy answers.

    Args:
        model: with heads.
        tokenizer: with a chat template.
        chats: messages; each is answered.
        max_new_tokens: of an answer.
        nodes: sizes of a step, for each of which the questions are answered without threads.

    Raises:
        ValueError: the model has no heads.
    """
    from medusa_apar.train.evaluation.held_out import measure  # needs the packages of training
    from medusa_apar.train.rows.tree_data import TreeCollator, decoded_row
    from medusa_apar.train.tree_attention import attend_along_paths

    if model.heads is None:
        raise ValueError("the model has no heads; name some with --heads DIR, or train them: `medusa-apar train heads`")
    answers = greedy_answers(model, tokenizer, chats, max_new_tokens)
    rows = [decoded_row(tree) for answer in answers for tree in answer.trees or ()]
    collate = TreeCollator.of(tokenizer, label_heads=model.heads.config.num_heads)
    batches = (
        {name: each.to(model.device) for name, each in collate(rows[first : first + ROWS]).items()}
        for first in range(0, len(rows), ROWS)
    )
    along_paths = attend_along_paths(model.backbone)
    try:
        found = measure(model.backbone, model.heads, batches)
    finally:
        along_paths.remove()
    return HeadFigures(
        accuracy=found.accuracy,
        chain=1 + sum(found.acceptance),
        trees={
            size: tokens_per_step(
                greedy_answers(model, tokenizer, chats, max_new_tokens, apar=False, ngrams=False, nodes_per_step=size)
            )
            for size in nodes
        },
    )


def accuracy_table(figures: HeadFigures) -> Table:
    """One line per head; beside them the figures that medusa-llm's authors published of Vicuna-7B's heads."""
    tops = range(1, 1 + len(figures.accuracy[0]))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("head", *(f"top-{top}" for top in tops), "Vicuna-7B's: top-1, top-5"):
        table.add_column(name, justify="right")
    for head, row in enumerate(figures.accuracy):
        published = "{:.2f}, {:.2f}".format(*PUBLISHED[head]) if head < len(PUBLISHED) else "-"
        table.add_row(str(head + 1), *(f"{share:.2f}" for share in row), published)
    return table


def main(argv: Sequence[str]) -> int:
    """Run `medusa-apar eval heads` with these arguments."""
    shared = ("model", "heads", "questions", "limit", "max_new_tokens", "dtype", "weights")
    parser = command_parser("heads", __doc__.partition(": ")[2], shared, questions="lists", max_new_tokens=384)
    parser.add_argument("--nodes", type=positives, default="16,64", help="nodes of a step, separated by commas")
    parser.add_argument("--output", type=Path, help="a JSON file to write the figures to")
    arguments = parser.parse_args(argv)
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
    questions = load_questions(arguments.questions)[: arguments.limit]
    model, tokenizer = load_model(arguments.model, arguments.dtype, arguments.heads, arguments.weights)
    chats: list[Chat] = [[{"role": "user", "content": question.turns[0]}] for question in questions]
    figures = measure_heads(model, tokenizer, chats, arguments.max_new_tokens, arguments.nodes)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(asdict(figures), indent=2) + "\n", encoding="utf-8")
    output = Console(highlight=False)
    output.print(f"{len(questions)} questions: {arguments.questions}", style="bold")
    output.print(accuracy_table(figures))
    output.print(f"best draft tokens alone: {figures.chain:.2f} tokens per step and thread", soft_wrap=True)
    for size, tokens in figures.trees.items():
        output.print(f"Medusa alone, {size} nodes: {tokens:.2f} tokens per step", soft_wrap=True)
    return 0
