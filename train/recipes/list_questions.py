"""A question file out of a response file: the prompts that most models answer with a forkable list.

    python -m medusa_apar.train.recipes.list_questions --data responses-heldout.jsonl.xz --output runs/heldout.jsonl

The result is in FastChat's question format, for `medusa-apar eval speed --questions`.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..rows.responses import BadRows, Response, read_responses
from .embedded import is_list_answer


def list_prompts(responses: Iterable[Response], share: float) -> list[str]:
    """Prompts of whose answers at least `share` are lists that the rule for ordered lists makes a tree of."""
    lists: dict[str, list[bool]] = defaultdict(list)
    for response in responses:
        lists[response.prompt].append(is_list_answer(response))
    return [prompt for prompt, is_list in lists.items() if sum(is_list) >= share * len(is_list)]


def main(argv: Sequence[str] | None = None) -> None:
    """Write the questions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="JSON lines of {prompt, response}; .xz, .gz")
    parser.add_argument("--output", type=Path, required=True, help="where to write the questions")
    parser.add_argument("--share", type=float, default=0.4, help="answers of a prompt that have to be forkable lists")
    args = parser.parse_args(argv)
    prompts = list_prompts(read_responses(args.data, BadRows()), args.share)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with args.output.open("w", encoding="utf-8") as file:
        for number, prompt in enumerate(prompts, start=1):
            file.write(json.dumps({"question_id": number, "category": "heldout-lists", "turns": [prompt]}) + "\n")
    print(f"{len(prompts)} questions in {args.output}")


if __name__ == "__main__":
    main()
