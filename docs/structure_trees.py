"""Writes `docs/structure.md`: what the rules make of real answers, with ten random trees of each rule.

The answers are Vicuna-7B's to MT-Bench; where a rule finds fewer than ten trees in them Vicuna-13B's, both from
github.com/FasterDecoding/Medusa (Apache-2.0); and where it needs more still, model outputs that AlpacaEval published
(CC BY-NC 4.0). The folder that `MEDUSA_APAR_DATA` names holds them.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random

from transformers import AutoTokenizer

from medusa_apar import DEFAULT_MODEL
from medusa_apar.train.rows.responses import BadRows, Response, read_responses
from medusa_apar.train.rows.structure_report import StructureFigures, Tally
from medusa_apar.train.structure import RULES, Rule, Rules, extract
from medusa_apar.tree.paragraph_tree import ParagraphNode

TREES = 10
SEED = 1
WANTED = 1.6
WIDTH = 76
HERE = Path(__file__).parent


def answers(folder: Path, size: str) -> list[tuple[str, str]]:
    """Category and text of every turn of a Vicuna of some size."""
    questions = [json.loads(line) for line in (folder / "question.jsonl").read_text(encoding="utf-8").splitlines()]
    category = {question["question_id"]: question["category"] for question in questions}
    lines = (folder / f"answers-medusa-vicuna-{size}-v1.3.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        (category[answer["question_id"]], turn)
        for answer in map(json.loads, lines)
        for turn in answer["choices"][0]["turns"]
    ]


def published(path: Path) -> list[tuple[str, str]]:
    """Prompt, and text, of the responses in a file."""
    return [(shortened(row.prompt, WIDTH), row.response) for row in read_responses(path, BadRows())]


def trees_of(turns: list[tuple[str, str]], rules: Rules) -> list[tuple[str, ParagraphNode]]:
    """Title and tree of the turns that some rules make trees of."""
    return [(title, tree) for title, turn in turns if (tree := extract(turn, rules)) is not None]


def drawn(node: ParagraphNode | None, indent: str = "") -> Iterator[str]:
    """Lines of a tree: a root, its details below it and further right, then its next sibling."""
    while node is not None:
        yield indent + shortened(node.text, WIDTH - len(indent))
        if node.first_child is not None:
            yield from drawn(node.first_child, indent + "    | ")
        node = node.next_sibling


def shortened(text: str, width: int) -> str:
    """The beginning and the end of a text, in one line."""
    text = " ".join(text.split())
    half = width // 2 - 2
    return text if len(text) <= width else f"{text[:half].rstrip()} … {text[-half:].lstrip()}"


def reach(tally: Tally) -> str:
    """What a ratio of `WANTED` would leave for the roots of the forkable answers."""
    left = (tally.tokens / WANTED - tally.longest) / tally.forkable
    have = (tally.steps - tally.longest) / tally.forkable
    return (
        f"A ratio of {WANTED} leaves {left:.0f} tokens for all roots of an answer together; with "
        f"{tally.mean_threads:.1f} threads they have {have:.0f}, and {tally.bound:.2f} is the end, with no root at all."
    )


def main() -> None:
    data = Path(os.environ["MEDUSA_APAR_DATA"])
    turns = answers(data / "mt_bench", "7b")
    sources = {
        "answers": turns,
        "answers of Vicuna-13B": answers(data / "mt_bench", "13b"),
        "held-out responses of AlpacaEval's models": published(data / "responses-heldout.jsonl.xz"),
    }
    tokenizer = AutoTokenizer.from_pretrained(DEFAULT_MODEL)
    parts: dict[str, list[Response]] = defaultdict(list)
    for category, turn in turns:
        parts[category].append(Response("?", turn))
    by_category = {name: StructureFigures.of(responses, tokenizer, RULES) for name, responses in parts.items()}
    total = StructureFigures.total(by_category.values())
    deepest = list(total.tallies)[-1]
    text = (HERE / "structure.template.md").read_text(encoding="utf-8")
    rows = [
        "| category | forkable | ideal step ratio | bound | tokens | steps |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, figures in {**by_category, "all": total}.items():
        tally = figures.tallies[deepest]
        rows.append(
            f"| {name} | {tally.forkable_share:.0%} | {tally.ratio:.2f} | {tally.bound:.2f} | {tally.tokens:,} "
            f"| {tally.steps:,} |"
        )
    trees = []
    for rule in Rule:
        alone = Rules(frozenset({rule}), RULES.max_depth, RULES.min_items)
        trees += [f"### {str(rule).capitalize()}", ""]
        wanted = TREES
        for source, texts in sources.items():
            found = trees_of(texts, alone)
            shown = Random(SEED).sample(found, min(wanted, len(found)))
            trees += [f"{len(found)} of {len(texts)} {source}, of which {len(shown)} here.", ""]
            for title, tree in shown:
                trees += [title, "", "```text", *drawn(tree), "```", ""]
            wanted -= len(shown)
            if not wanted:
                break
    text = text.replace("{reach}", reach(total.tallies[deepest]))
    text = text.replace("{figures}", total.table()).replace("{categories}", "\n".join(rows))
    (HERE / "structure.md").write_text(text.replace("{trees}", "\n".join(trees).rstrip()), encoding="utf-8")


if __name__ == "__main__":
    main()
