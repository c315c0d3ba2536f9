"""How often greedy answers fork and loop, and the tokens per step of `apar` alone, with many questions in a batch.

    python -m benchmarks.forks_in_batches MODEL lists vicuna_bench

MODEL: folder or hub id. It takes minutes where `medusa-apar eval speed` takes hours, and does not measure speed.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from medusa_apar import MedusaAparOutput, ParagraphTree
from medusa_apar.eval.measurement.question_sets import load_questions
from medusa_apar.eval.measurement.setup import load_model
from medusa_apar.train.own_text.repetition import LOOPING_BELOW, distinct_ngrams
from medusa_apar.train.prompt_batch import left_padded

BATCH, MAX_NEW_TOKENS = 20, 400


def line(name: str, trees: Sequence[ParagraphTree]) -> str:
    """Figures of some answers, as a line of a markdown table."""
    answers = [tree.answer_token_ids() for tree in trees]
    steps = [[step for thread in tree.threads for step in thread.steps] for tree in trees]
    per_step = [len(answer) / (max(at) - min(at) + 1) for answer, at in zip(answers, steps, strict=True)]
    loops = fmean(distinct_ngrams(answer, 4) < LOOPING_BELOW for answer in answers)
    forks = [len(tree.threads) - 1 for tree in trees]
    return (
        f"| {name} | {len(trees)} | {fmean(count > 0 for count in forks):.0%} | {median(per_step):.2f} "
        f"| {fmean(forks):.1f} | {loops:.0%} |"
    )


def main(argv: Sequence[str]) -> None:
    """Print a markdown table."""
    model, tokenizer = load_model(argv[0], "float32")
    print(
        "| | questions | fork | tokens per step, median | forks | loops |\n| --- | ---: | ---: | ---: | ---: | ---: |"
    )
    for name in argv[1:]:
        questions = load_questions(name)
        by_category: dict[str, list[ParagraphTree]] = defaultdict(list)
        for start in range(0, len(questions), BATCH):
            batch = questions[start : start + BATCH]
            chats = [[{"role": "user", "content": question.turns[0]}] for question in batch]
            prompts: Any = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=False)
            output = model.generate(
                **left_padded(prompts, tokenizer, model.device),
                max_new_tokens=MAX_NEW_TOKENS, do_sample=False, medusa=False, return_dict_in_generate=True,
            )  # fmt: skip
            assert isinstance(output, MedusaAparOutput)
            for question, tree in zip(batch, output.trees or (), strict=True):
                by_category[question.category].append(tree)
        for category, trees in by_category.items():
            print(line(f"{name}: {category}", trees))
        print(line(f"{name}: all", [tree for trees in by_category.values() for tree in trees]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
