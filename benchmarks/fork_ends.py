"""How right later forks can be where nobody knows which part of an answer is the last.

    python -m benchmarks.fork_ends FILE...

counts, in the responses of each file, the forks after the first one of a response, and the parts after which nothing
follows, which therefore do not fork. Who forks at every part, the last ones among them, finds all of these forks and
has the printed precision; who has a given recall and is wrong at last parts alone has to know beforehand the printed
share of these for a precision of 0.9.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from medusa_apar.train.rows.responses import BadRows, read_responses
from medusa_apar.train.structure import RULES, Rules, extract
from medusa_apar.train.structure.extraction import ends_with, find_details
from medusa_apar.train.structure.normalization import NormalizedText

PRECISION, RECALL = 0.9, 0.8


def last_parts(text: str, start: int, end: int, rules: Rules = RULES) -> int:
    """Parts of a text, and of their details, after which nothing follows."""
    details = find_details(text, start, end, rules) if rules.max_depth > 1 else []
    if not details:
        return 0
    last = ends_with(text, end, details[-1])
    deeper = replace(rules, max_depth=rules.max_depth - 1)
    return last + sum(last_parts(text, *span, deeper) for span in details[: len(details) - last])


def main(files: Sequence[str]) -> None:
    """Print the figures of each file."""
    for file in files:
        forks, ends = 0, 0
        for row in read_responses(file, BadRows()):
            tree = extract(row.response)
            if tree is not None:
                forks += sum(node.first_child is not None for node in tree.reading_order()) - 1
                text = NormalizedText.of(row.response).text
                ends += last_parts(text, 0, len(text))
        mistakes = forks * RECALL * (1 / PRECISION - 1)  # that the precision allows
        known = max(0, 1 - mistakes / max(1, ends))
        print(
            f"{file}: {forks} later forks, {ends} last parts; "
            f"forking at all of them: precision {forks / max(1, forks + ends):.2f}; "
            f"for {PRECISION} at a recall of {RECALL}, last parts to be known: {known:.0%}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
