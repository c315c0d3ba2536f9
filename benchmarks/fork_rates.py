"""How often a tuned model forks where the untuned model's own answer has a structure, and where it has none.

    python -m benchmarks.fork_rates TUNED UNTUNED

TUNED, UNTUNED: folders that `medusa-apar eval speed` wrote for the same questions, the first with mode `apar`, the
second with mode `ar`.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from medusa_apar.train.structure import extract


def turns(folder: str, mode: str) -> dict[tuple[Any, int], dict[str, Any]]:
    """Answered turns of a mode, by question and turn."""
    lines = (Path(folder) / "turns.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for line in lines if (record := json.loads(line))["mode"] == mode and not record["skipped"]]
    return {(record["question_id"], record["turn"]): record for record in records}


tuned, untuned = turns(sys.argv[1], "apar"), turns(sys.argv[2], "ar")
groups = defaultdict(list)
for key in tuned.keys() & untuned.keys():
    record = tuned[key]
    pair = extract(untuned[key]["answer"]) is not None, record["stats"]["forks"] > 0
    for category in (record["category"], "overall"):
        groups[category].append(pair)
print("| category | structured | of these fork | others | of these fork |\n| --- | ---: | ---: | ---: | ---: |")
for category, pairs in sorted(groups.items(), key=lambda group: (group[0] == "overall", group[0])):
    cells = []
    for wanted in (True, False):
        forked = [forks for structured, forks in pairs if structured is wanted]
        cells += [str(len(forked)), f"{sum(forked) / len(forked):.0%}" if forked else "-"]
    print(f"| {category} | {' | '.join(cells)} |")
