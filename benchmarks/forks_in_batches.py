"""How often greedy answers fork and loop, and the tokens per step of `apar` alone, with many questions in a batch.

    python -m benchmarks.forks_in_batches MODEL lists vicuna_bench

MODEL: folder or hub id. It takes minutes where `medusa-apar eval speed` takes hours, and does not measure speed. With
`--untuned` a model that is not tuned answers, too: how many of its answers have a structure, and in how many of these
and of the others the tuned one forks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from medusa_apar import MedusaAparOutput, ParagraphTree
from medusa_apar.argument_types import ArgumentParser
from medusa_apar.eval.measurement.question_sets import Question, load_questions
from medusa_apar.eval.measurement.setup import load_model
from medusa_apar.train.own_text.repetition import LOOPING_BELOW, distinct_ngrams
from medusa_apar.train.prompt_batch import left_padded
from medusa_apar.train.structure import extract

BATCH, MAX_NEW_TOKENS = 20, 400


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        category: of its question.
        tree: its threads.
        text: what it says.
        untuned: what the untuned model says; None where it was not asked.
    """

    category: str
    tree: ParagraphTree
    text: str
    untuned: str | None

    @property
    def forks(self) -> int:
        """Children."""
        return len(self.tree.threads) - 1


def answers(model: str, questions: Sequence[Question], **options: Any) -> Iterator[tuple[ParagraphTree, str]]:
    """Greedy answers to first turns."""
    decoder, tokenizer = load_model(model, "float32")
    chats = [[{"role": "user", "content": question.turns[0]}] for question in questions]
    prompts: Any = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=False)
    output = decoder.generate(
        **left_padded(prompts, tokenizer, decoder.device), max_batch=BATCH, max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False, medusa=False, return_dict_in_generate=True, **options,
    )  # fmt: skip
    assert isinstance(output, MedusaAparOutput)
    for tree in output.trees or ():
        yield tree, str(tokenizer.decode(tree.answer_token_ids(), skip_special_tokens=True))


def line(name: str, found: Sequence[Answer]) -> str:
    """Figures of some answers, as a line of a markdown table."""
    token_ids = [each.tree.answer_token_ids() for each in found]
    steps = [[step for thread in each.tree.threads for step in thread.steps] for each in found]
    per_step = [len(answer) / (max(at) - min(at) + 1) for answer, at in zip(token_ids, steps, strict=True)]
    cells = [
        name, str(len(found)), _share([each.forks > 0 for each in found]), f"{median(per_step):.2f}",
        f"{fmean(each.forks for each in found):.1f}",
        _share([distinct_ngrams(answer, 4) < LOOPING_BELOW for answer in token_ids]),
    ]  # fmt: skip
    if found[0].untuned is not None:
        structured = [extract(each.untuned or "") is not None for each in found]
        cells.append(str(sum(structured)))
        for wanted in (True, False):
            cells.append(_share([each.forks > 0 for each, has in zip(found, structured, strict=True) if has is wanted]))
    return f"| {' | '.join(cells)} |"


def _share(flags: Sequence[bool]) -> str:
    return f"{fmean(flags):.0%}" if flags else "-"


def main(argv: Sequence[str] | None = None) -> None:
    """Print a markdown table."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="folder or hub id")
    parser.add_argument("questions", nargs="+", metavar="QUESTIONS", help="question sets")
    parser.add_argument("--fork-bias", type=float, help="in place of the model's")
    parser.add_argument("--untuned", metavar="MODEL", help="folder or hub id of the model before it was tuned")
    arguments = parser.parse_args(argv)
    names = ["", "questions", "fork", "tokens per step, median", "forks", "loops"]
    if arguments.untuned is not None:
        names += ["structured", "of these fork", "of the others"]
    print(f"| {' | '.join(names)} |\n| --- |{' ---: |' * (len(names) - 1)}")
    for name in arguments.questions:
        questions = load_questions(name)
        tuned = list(answers(arguments.model, questions, fork_bias=arguments.fork_bias))
        before: list[str | None] = [None] * len(tuned)
        if arguments.untuned is not None:
            before = [text for _, text in answers(arguments.untuned, questions, apar=False)]
        found = [
            Answer(question.category, *answer, text)
            for question, answer, text in zip(questions, tuned, before, strict=True)
        ]
        for category in dict.fromkeys(each.category for each in found):
            print(line(f"{name}: {category}", [each for each in found if each.category == category]))
        print(line(f"{name}: all", found), flush=True)


if __name__ == "__main__":
    main()
