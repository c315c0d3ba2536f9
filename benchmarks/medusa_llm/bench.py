"""medusa-llm's own decoding beside this one: the same weights and heads, the same greedy tokens, timed in turn.

`make bench-medusa-llm` builds the environment that medusa-llm needs and runs this. Every question is answered by
transformers' `generate`, by modes `ar` and `medusa`, and by `medusa_generate` of medusa-llm 0.1 in a second process,
all in float32 with the same number of threads; their order rotates question by question, and the process that does
not answer waits.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from medusa_apar.argument_types import ArgumentParser, positive
from medusa_apar.eval.decoding.decode import GENERATE
from medusa_apar.eval.measurement.question_sets import load_questions
from medusa_apar.eval.measurement.setup import describe, load_model
from medusa_apar.eval.measurement.spread import Spread
from medusa_apar.eval.measurement.tables import as_markdown, spread_figures
from medusa_apar.model import MedusaAparModel
from medusa_apar.modes import Mode

from .export import export
from .run import OWN, Bench, SystemKey, SystemRecord, SystemStore, Worker

CHOICES = ("1,7,6", "1,3,2,1,1", "1,2,1,1,1")
"""Draft tokens per head after the root: medusa-llm's default of 50 nodes; 22 and 9 nodes over four heads."""

TIE = 1e-3
"""Where the two largest logits are nearer than this, two ways of computing them in float32 may order them otherwise."""

COLUMNS = ("system", "tokens\n/s", "tokens\n/step", "x ar", "x medusa-llm", "same/\nties/\nother")
LEGEND = (
    "x ar, x medusa-llm: tokens/s against mode ar, and against the fastest row of medusa-llm, on the same question, "
    "median (quartiles); same: answers whose tokens are those of generate; ties: answers that leave it where its two "
    f"largest logits are within {TIE}; other: answers that leave it elsewhere, which is an error"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemRow:
    """Figures of one system over all questions.

    Attributes:
        system: `generate`, a mode, or medusa-llm with its choices.
        tokens_per_second: answer tokens / wall time, prefill included.
        tokens_per_step: answer tokens / steps.
        steps: mean per answer.
        against_ar: of tokens/s, over questions.
        against_medusa_llm: of tokens/s, against the fastest row of medusa-llm.
        same: answers whose tokens are those of `generate`.
        ties: answers that leave `generate`'s at a tie.
        other: answers that leave `generate`'s elsewhere.
    """

    system: str
    tokens_per_second: float
    tokens_per_step: float
    steps: float
    against_ar: Spread | None
    against_medusa_llm: Spread | None
    same: int
    ties: int
    other: int


def parting(reference: Sequence[int], answer: Sequence[int]) -> int | None:
    """The first place where an answer is another than the reference; None where it is the same."""
    if list(reference) == list(answer):
        return None
    pairs = enumerate(zip(reference, answer, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(reference), len(answer)))


@torch.inference_mode()
def gap(model: MedusaAparModel, context: Sequence[int]) -> float:
    """How far apart the backbone's two largest logits after a context are."""
    logits = model.backbone(torch.tensor([list(context)], device=model.device), logits_to_keep=1).logits[0, -1]
    largest, second = logits.float().topk(2).values.tolist()
    return float(largest - second)


def gaps(
    model: MedusaAparModel, records: Mapping[SystemKey, SystemRecord], prompts: Mapping[int | str, list[int]]
) -> dict[SystemKey, float]:
    """For every answer that is not `generate`'s, the gap between the two largest logits where it leaves it."""
    result: dict[SystemKey, float] = {}
    for (question_id, system), record in records.items():
        reference = records[question_id, GENERATE].token_ids
        place = parting(reference, record.token_ids)
        if place is not None:
            result[question_id, system] = gap(model, [*prompts[question_id], *reference[:place]])
    return result


def summarize(
    records: Mapping[SystemKey, SystemRecord], systems: Sequence[str], gaps: Mapping[SystemKey, float]
) -> list[SystemRow]:
    """A row per system.

    Args:
        records: all answers of all systems.
        systems: in the order of the rows.
        gaps: between the two largest logits, for every answer that leaves `generate`'s.
    """
    theirs = [system for system in systems if system not in OWN]
    fastest = max(theirs, key=lambda system: _tokens_per_second(_of(records, system)))
    return [_summarize(records, system, fastest, gaps) for system in systems]


def _summarize(
    records: Mapping[SystemKey, SystemRecord], system: str, fastest: str, gaps: Mapping[SystemKey, float]
) -> SystemRow:
    own = _of(records, system)
    tokens, steps = sum(len(record.token_ids) for record in own), sum(record.steps for record in own)
    own_gaps = [gap for (_, name), gap in gaps.items() if name == system]
    return SystemRow(
        system=system,
        tokens_per_second=_tokens_per_second(own),
        tokens_per_step=tokens / max(1, steps),
        steps=steps / len(own),
        against_ar=_against(records, own, Mode.AR),
        against_medusa_llm=_against(records, own, fastest),
        same=len(own) - len(own_gaps),
        ties=sum(gap < TIE for gap in own_gaps),
        other=sum(gap >= TIE for gap in own_gaps),
    )


def _of(records: Mapping[SystemKey, SystemRecord], system: str) -> list[SystemRecord]:
    return [record for record in records.values() if record.system == system]


def _tokens_per_second(records: Sequence[SystemRecord]) -> float:
    return sum(len(record.token_ids) for record in records) / sum(record.seconds for record in records)


def _against(records: Mapping[SystemKey, SystemRecord], own: Sequence[SystemRecord], other: str) -> Spread | None:
    return Spread.of(
        [record.tokens_per_second / records[record.question_id, other].tokens_per_second for record in own]
    )


def table(rows: Sequence[SystemRow], style: box.Box) -> Table:
    """One line per system."""
    result = Table(box=style) if style is box.MARKDOWN else Table(box=style, pad_edge=False, padding=0)
    for name in COLUMNS:
        shown = name.replace("\n", "") if style is box.MARKDOWN else name
        result.add_column(shown, justify="left" if name == "system" else "right", no_wrap=True)
    for row in rows:
        result.add_row(
            row.system,
            f"{row.tokens_per_second:.0f}",
            f"{row.tokens_per_step:.2f}",
            *("-" if spread is None else spread_figures(spread) for spread in (row.against_ar, row.against_medusa_llm)),
            f"{row.same}/{row.ties}/{row.other}",
        )
    return result


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m benchmarks.medusa_llm.bench",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--worker-python", type=Path, required=True, help="interpreter that has medusa-llm")
    parser.add_argument("--model", required=True, help="folder or hub id of a Llama with Medusa heads")
    parser.add_argument("--heads", help="folder or hub id of its Medusa heads; by default those that come with it")
    parser.add_argument("--questions", default="lists", help="a file in FastChat's format, or a set's name")
    parser.add_argument("--limit", type=positive, help="take only the first questions")
    parser.add_argument("--max-new-tokens", type=positive, default=256, help="tokens of an answer")
    parser.add_argument(
        "--choices", nargs="+", type=_choices, default=[_choices(text) for text in CHOICES], metavar="1,N,N",
        help="medusa-llm's draft tokens per head after the root; every tree is one row",
    )  # fmt: skip
    parser.add_argument(
        "--output-dir", type=Path, required=True, help="folder of the results; what is finished is kept"
    )
    parser.set_defaults(modes=None, max_threads=1, max_depth=1, fork_bias=None)
    return parser


def _choices(text: str) -> tuple[int, ...]:
    return tuple(positive(number) for number in text.split(","))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; 1 if an answer leaves that of `generate` otherwise than at a tie."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        questions = load_questions(arguments.questions)[: arguments.limit]
        original, tokenizer = load_model(arguments.model, "float32", arguments.heads)
        backbone, heads = export(original.to("cpu"), arguments.output_dir / "export")
        model = MedusaAparModel(AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.float32), original.heads)
        worker = Worker(arguments.worker_python, heads, model.config.eos_token_id)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    with worker:
        try:
            bench = Bench(model, worker, tokenizer, arguments.choices, arguments.max_new_tokens)
            prompts = {question.question_id: bench.prompts.first_turn(question)[0].tolist() for question in questions}
            settings = describe(model, arguments, questions, bench.systems) | {"medusa_llm_on": worker.versions}
            store = SystemStore(arguments.output_dir, settings)
        except (ValueError, OSError) as error:
            parser.error(str(error))
        with store:
            bench.run(questions, store)
    rows = summarize(store.records, bench.systems, gaps(model, store.records, prompts))
    write_report(store, rows)
    output = Console()
    output.print(table(rows, box.SIMPLE_HEAD))
    output.print(LEGEND, style="dim")
    output.print(f"results: {arguments.output_dir}", markup=False)
    return int(any(row.other for row in rows))


def write_report(store: SystemStore, rows: Sequence[SystemRow]) -> None:
    """Write `summary.json` and `summary.md` beside the answers."""
    summary = {"settings": store.settings, "rows": [asdict(row) for row in rows]}
    (store.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    settings = "\n".join(f"- {name}: {value}" for name, value in store.settings.items())
    text = f"# Beside medusa-llm\n\n{as_markdown(table(rows, box.MARKDOWN))}\n{LEGEND}.\n\n{settings}\n"
    (store.folder / "summary.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
