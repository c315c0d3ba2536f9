"""How often a tuned model forks where the untuned model's own answer has a structure, and where it has none.

    python -m benchmarks.fork_rates TUNED UNTUNED [MODE]

TUNED, UNTUNED: folders that `medusa-apar eval speed` wrote for the same questions, the first with mode `apar`. MODE:
that of the untuned model's answers, by default `ar`. `llama.cpp` reads the default model untuned: one folder is enough.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medusa_apar.eval.measurement.tables import OVERALL
from medusa_apar.train.structure import extract


def turns(folder: str, mode: str = "ar") -> dict[tuple[Any, int], dict[str, Any]]:
    """Answered turns of a mode, by question and turn."""
    lines = (Path(folder) / "turns.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for line in lines if (record := json.loads(line))["mode"] == mode and not record["skipped"]]
    return {(record["question_id"], record["turn"]): record for record in records}


def main(argv: Sequence[str]) -> None:
    """Print a markdown table."""
    tuned, untuned = turns(argv[0], "apar"), turns(argv[1], *argv[2:])
    groups: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for key, record in tuned.items():
        if key in untuned:
            pair = extract(untuned[key]["answer"]) is not None, record["stats"]["forks"] > 0
            for category in (record["category"], OVERALL):
                groups[category].append(pair)
    print("| category | structured | of these fork | others | of these fork |\n| --- | ---: | ---: | ---: | ---: |")
    for category in [*(name for name in groups if name != OVERALL), *([OVERALL] if groups else [])]:
        cells = []
        for wanted in (True, False):
            forked = [forks for structured, forks in groups[category] if structured is wanted]
            cells += [str(len(forked)), f"{sum(forked) / len(forked):.0%}" if forked else "-"]
        print(f"| {category} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
