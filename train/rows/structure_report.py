"""How much of a corpus can be written in parallel: figures by rule and by depth, as tables and as a plot."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from transformers import PreTrainedTokenizerBase

from ..structure import PAPER, Rules, extract
from ..structure.figures import TreeFigures
from .responses import Response
from .shards import REPORT

MOST_THREADS = 16
"""In the plot; answers with more are counted there."""


def variants(rules: Rules) -> dict[str, Rules]:
    """The sets of rules that a report compares: the paper's, each one alone, and all up to each depth."""
    alone = {str(rule): replace(rules, rules=frozenset({rule})) for rule in sorted(rules.rules)}
    depths = {f"all, depth {depth}": replace(rules, max_depth=depth) for depth in range(2, rules.max_depth + 1)}
    return {"paper": PAPER, **alone, **depths}


@dataclass(slots=True)
class Tally:
    """Sums over responses that were split by one set of rules.

    Attributes:
        responses: all of them.
        forkable: those with a paragraph tree.
        tokens: of all, as plain decoding chooses them.
        steps: of all, at best.
        longest: of all, the tokens of the longest node of each: steps if roots cost nothing.
        threads: how many forkable responses have so many threads.
    """

    responses: int = 0
    forkable: int = 0
    tokens: int = 0
    steps: int = 0
    longest: int = 0
    threads: dict[int, int] = field(default_factory=dict)

    def note(self, figures: TreeFigures) -> None:
        self.responses += 1
        self.tokens += figures.tokens
        self.steps += figures.steps
        self.longest += figures.longest
        if figures.threads > 1:
            self.forkable += 1
            self.threads[figures.threads] = self.threads.get(figures.threads, 0) + 1

    def add(self, other: Tally) -> None:
        self.responses += other.responses
        self.forkable += other.forkable
        self.tokens += other.tokens
        self.steps += other.steps
        self.longest += other.longest
        self.threads = dict(Counter(self.threads) + Counter(other.threads))

    @property
    def forkable_share(self) -> float:
        return self.forkable / max(1, self.responses)

    @property
    def ratio(self) -> float:
        """Of the steps of plain decoding to the fewest."""
        return self.tokens / max(1, self.steps)

    @property
    def bound(self) -> float:
        """The ratio if every response took no more steps than its longest node."""
        return self.tokens / max(1, self.longest)

    @property
    def mean_threads(self) -> float:
        """Of a forkable response."""
        return sum(threads * count for threads, count in self.threads.items()) / max(1, self.forkable)


@dataclass(slots=True)
class StructureFigures:
    """Of a corpus: a tally for every variant of the rules."""

    tallies: dict[str, Tally]

    @staticmethod
    def of(responses: Iterable[Response], tokenizer: PreTrainedTokenizerBase, rules: Rules) -> StructureFigures:
        """Split responses by every variant of some rules. The tokenizer has to be a fast one."""
        compared = variants(rules)
        tallies = {name: Tally() for name in compared}
        for response in responses:
            text = response.response
            offsets: Any = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            starts = [start for start, _ in offsets]
            for name, each in compared.items():
                tallies[name].note(TreeFigures.of(extract(text, each), starts))
        return StructureFigures(tallies)

    @staticmethod
    def total(parts: Iterable[StructureFigures]) -> StructureFigures:
        """The sum of several."""
        total: dict[str, Tally] = {}
        for part in parts:
            for name, tally in part.tallies.items():
                total.setdefault(name, Tally()).add(tally)
        return StructureFigures(total)

    def to_dict(self) -> dict[str, Any]:
        return {name: asdict(tally) for name, tally in self.tallies.items()}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> StructureFigures:
        def tally(values: dict[str, Any]) -> Tally:
            threads = {int(threads): count for threads, count in values["threads"].items()}
            return Tally(**{**values, "threads": threads})

        return StructureFigures({name: tally(each) for name, each in values.items()})

    def table(self) -> str:
        """As Markdown."""
        lines = ["| rules | forkable | threads | ideal step ratio | bound |", "| --- | ---: | ---: | ---: | ---: |"]
        for name, tally in self.tallies.items():
            lines.append(
                f"| {name} | {tally.forkable_share:.1%} | {tally.mean_threads:.1f} | {tally.ratio:.2f} "
                f"| {tally.bound:.2f} |"
            )
        return "\n".join(lines)


def write_report(folder: Path, figures: StructureFigures, corpus: dict[str, Any]) -> None:
    """Write `report.md`, `report.json` and `structure.png`.

    Args:
        folder: where to.
        figures: of the structure.
        corpus: what else is known of the corpus, by name.
    """
    (folder / REPORT).write_text(json.dumps({**corpus, "rules": figures.to_dict()}, indent=2) + "\n", encoding="utf-8")
    lines = [f"- {name}: {value}" for name, value in corpus.items()]
    text = f"""# Structure

{chr(10).join(lines)}

{figures.table()}

forkable: share of responses with a paragraph tree; threads: mean over these; ideal step ratio: steps of plain decoding
against the fewest in which threads can write the same text, over all responses; bound: the same if an answer took no
more steps than its longest node has tokens, because roots cost nothing. "paper" are APAR's two rules, to depth
2; each rule stands alone, then all of them up to a depth.

![Structure](structure.png)
"""
    (folder / "report.md").write_text(text, encoding="utf-8")
    _plot(folder / "structure.png", figures)


def _plot(path: Path, figures: StructureFigures) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    names = list(figures.tallies)
    bars = left.barh(names, [tally.ratio for tally in figures.tallies.values()], color="tab:blue")
    left.bar_label(bars, fmt="%.2f", padding=3)
    left.invert_yaxis()
    left.set(xlabel="ideal step ratio", xlim=(1, None), title="by rules")
    left.margins(x=0.15)
    last = figures.tallies[names[-1]]
    counts = [last.threads.get(threads, 0) for threads in range(2, MOST_THREADS)]
    counts.append(sum(count for threads, count in last.threads.items() if threads >= MOST_THREADS))
    right.bar(range(2, MOST_THREADS + 1), counts, color="tab:orange")
    right.set(xlabel=f"threads of an answer ({MOST_THREADS}: or more)", ylabel="forkable answers", title=names[-1])
    figure.savefig(path, dpi=150)
    plt.close(figure)
