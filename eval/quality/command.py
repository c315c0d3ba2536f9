"""`medusa-apar eval quality`: how good answers are by likelihood, repetition, structure, and a judge's word."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console

from medusa_apar import fingerprint
from medusa_apar.argument_types import ArgumentParser, not_negative, positive, seconds
from medusa_apar.model import MedusaAparModel
from medusa_apar.modes import Mode
from medusa_apar.runner.dtype import DTYPES
from medusa_apar.train.training_record import commit

from ..answers.answer_files import Answers, load_answers
from ..judge.judge_plan import JudgePlan, plan
from ..judge.judge_prompts import JudgeMode
from ..judge.judgements import Judgement, JudgementStore
from ..judge.options import JudgeError, JudgeOptions
from ..judge.scores import unread
from ..measurement.provenance import device_name
from ..measurement.question_sets import BENCHMARKS, BUNDLED, Question, load_questions
from ..measurement.setup import INTERRUPTED, load_model, model_name
from ..measurement.tables import Section
from .measure_summary import summarize
from .measures import AnsweredTurn, MeasuredStore, Measurement, answered_turns
from .tables import measures_section

FAILED = 1
_SHOWN_FAILURES = 3
_DEFAULTS = JudgeOptions(url="http://localhost", model="")
_OF_A_JUDGE = ("judge_model", "judge_prompts", "references", "requests_per_minute")


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="medusa-apar eval quality", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--answers", type=Path, required=True, help="folder with a file MODE.jsonl per mode")
    names = ", ".join(BUNDLED + BENCHMARKS)
    parser.add_argument("--questions", required=True, help=f"what was answered: a file, or one of {names}")
    parser.add_argument(
        "--model", help="whose backbone reads the answers: folder or hub id (default: SmolLM2-135M-Instruct, tuned)"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights")
    parser.add_argument(
        "--output-dir", type=Path, required=True, help="folder of the results; what is finished is kept"
    )
    parser.add_argument("--limit", type=positive, help="take only the first questions")
    judge = parser.add_argument_group("judge", "without --judge-url nothing is sent anywhere")
    judge.add_argument("--judge-url", help="of an OpenAI-compatible endpoint, such as http://localhost:8000/v1")
    judge.add_argument("--judge-model", help="the judge's name at the endpoint")
    judge.add_argument("--judge-mode", choices=[str(mode) for mode in JudgeMode], default=str(JudgeMode.SINGLE),
                       help="rate each answer, or compare it with the baseline's")  # fmt: skip
    judge.add_argument("--baseline", default=str(Mode.AR), help="the mode that others are compared with")
    judge.add_argument("--judge-prompts", metavar="FILE", help="FastChat's judge_prompts.jsonl")
    judge.add_argument("--references", metavar="FILE", help="reference answers, in FastChat's model_answer format")
    judge.add_argument("--judge-key", metavar="VARIABLE", default=_DEFAULTS.key_variable,
                       help="environment variable that holds the key")  # fmt: skip
    judge.add_argument("--judge-max-tokens", type=positive, default=_DEFAULTS.max_tokens, help="of a judgement")
    judge.add_argument("--judge-timeout", type=seconds, default=_DEFAULTS.timeout, help="seconds for a judgement")
    judge.add_argument("--judge-retries", type=not_negative, default=_DEFAULTS.retries, help="further attempts")
    judge.add_argument("--requests-per-minute", type=positive, help="limit of the requests")
    judge.add_argument("--parallel", type=positive, default=1, help="requests at a time")
    return parser


def _plan(
    arguments: argparse.Namespace, questions: Sequence[Question], answers: dict[str, Answers]
) -> JudgePlan | None:
    """What the judge is to be asked; None without one."""
    if arguments.judge_url is None:
        for name in _OF_A_JUDGE:
            if getattr(arguments, name) is not None:
                raise ValueError(
                    f"{name}={getattr(arguments, name)!r} is of no use without a judge; name one with --judge-url"
                )
        return None
    if arguments.judge_model is None:
        raise ValueError(f"judge_url={arguments.judge_url!r} needs the judge's name there; give it with --judge-model")
    if find_spec("openai") is None:
        raise ValueError(
            f"judge_url={arguments.judge_url!r} needs the package openai; install it with "
            "pip install -e '.[judge]' in a checkout"
        )
    options = JudgeOptions(
        url=arguments.judge_url,
        model=arguments.judge_model,
        key_variable=arguments.judge_key,
        max_tokens=arguments.judge_max_tokens,
        timeout=arguments.judge_timeout,
        retries=arguments.judge_retries,
        requests_per_minute=arguments.requests_per_minute,
    )
    return plan(
        options,
        JudgeMode(arguments.judge_mode),
        arguments.questions,
        questions,
        answers,
        baseline=arguments.baseline,
        prompts=arguments.judge_prompts,
        references=arguments.references,
    )


def _describe(model: MedusaAparModel, name: str | None) -> dict[str, Any]:
    """Everything that the figures of an answer depend on."""
    backbone = model.backbone
    device = backbone.device
    return {
        "model": model_name(name),
        "weights": fingerprint.of_weights(backbone),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "device": device_name(device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _describe_report(arguments: argparse.Namespace, questions: Sequence[Question]) -> dict[str, Any]:
    """What the tables depend on beside that."""
    described = {
        "answers": str(arguments.answers),
        "questions": arguments.questions,
        "questions_digest": fingerprint.of_items(questions),
        "commit": commit(),
    }
    if arguments.judge_url is None:
        return described
    names = ("judge_url", "judge_model", "judge_mode", "judge_max_tokens")
    baseline = {"baseline": arguments.baseline} if arguments.judge_mode == JudgeMode.PAIRWISE else {}
    return described | {name: getattr(arguments, name) for name in names} | baseline


def _write_report(
    folder: Path,
    settings: Mapping[str, Any],
    turns: Sequence[AnsweredTurn],
    store: MeasuredStore,
    judged: JudgePlan | None,
    judgements: Mapping[str, Judgement],
) -> list[Section]:
    """Write `summary.json`, `summary.md` and `answers.jsonl`, and give the tables."""
    measures = summarize(turns, store.records)
    sections = [measures_section(measures), *(judged.sections(judgements) if judged else [])]
    summary = {
        "settings": settings,
        "measures": [asdict(row) for row in measures],
        "scores": [asdict(row) for row in judged.scores(judgements)] if judged else [],
        "pairs": [asdict(row) for row in judged.pairs(judgements)] if judged else [],
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    tables = "\n".join(section.markdown() for section in sections)
    described = "\n".join(f"- {name}: {value}" for name, value in settings.items())
    (folder / "summary.md").write_text(f"# Quality\n\n{tables}\n{described}\n", encoding="utf-8")
    lines = "".join(json.dumps(_figures(turn, store), ensure_ascii=False) + "\n" for turn in turns)
    (folder / "answers.jsonl").write_text(lines, encoding="utf-8")
    if judged is not None:
        judged.write(folder / "judge", judgements)
    return sections


def _figures(turn: AnsweredTurn, store: MeasuredStore) -> dict[str, Any]:
    """The line of an answer; an empty one has no figures."""
    found = store.records.get(turn.digest)
    nats = None if found is None or found.nats is None else found.nats / found.tokens
    return {
        "question_id": turn.question.question_id,
        "category": turn.question.category,
        "turn": turn.turn,
        "mode": turn.mode,
        "tokens": 0 if found is None else found.tokens,
        "nats_per_token": nats,
        "distinct_4grams": None if found is None else found.distinct_4grams,
        "defects": [str(defect) for defect in turn.defects],
    }


def _ask(judged: JudgePlan, store: JudgementStore, parallel: int) -> list[str]:
    """Ask the judge what is not known yet; what was refused, or why nothing more could be asked."""
    from ..judge.endpoint import Endpoint  # needs the package openai
    from ..judge.judging import judge

    with Endpoint(judged.options) as endpoint:
        try:
            return judge(judged.inquiries, endpoint, store, parallel)
        except JudgeError as error:
            kept = len(store.records)
            return [f"{error}; {kept} judgements are kept, and the same command goes on from there"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    everything = load_questions(arguments.questions)
    answers = load_answers(arguments.answers, everything, arguments.limit)
    questions = everything[: arguments.limit]
    judged = _plan(arguments, questions, answers)
    model, tokenizer = load_model(arguments.model, arguments.dtype)
    measurement = Measurement(model, tokenizer)
    settings = _describe(model, arguments.model)
    store = MeasuredStore(arguments.output_dir, settings)
    judgement_store = JudgementStore(arguments.output_dir / "judge", judged.options) if judged else None
    turns = list(answered_turns(questions, answers))
    failures: list[str] = []
    judgements: Mapping[str, Judgement] = {}
    try:
        with store, judgement_store or nullcontext():
            measurement.run(turns, store)
            if judged is not None and judgement_store is not None:
                failures = _ask(judged, judgement_store, arguments.parallel)
                judgements = judgement_store.records
    except KeyboardInterrupt:
        kept = f"{len(store.records)} measured answers"
        if judgement_store is not None:
            kept += f" and {len(judgement_store.records)} judgements"
        print(f"interrupted; {kept} are kept, and the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    described = settings | _describe_report(arguments, questions)
    _show(_write_report(arguments.output_dir, described, turns, store, judged, judgements))
    if judged is not None:
        _report_unread(judged, judgements, arguments.output_dir)
    print(f"results: {arguments.output_dir}")
    for failure in failures[:_SHOWN_FAILURES]:
        print(f"{parser.prog}: error: {failure}", file=sys.stderr)
    if len(failures) > _SHOWN_FAILURES:
        print(f"{parser.prog}: error: and {len(failures) - _SHOWN_FAILURES} more like these", file=sys.stderr)
    return FAILED if failures else 0


def _show(sections: Sequence[Section]) -> None:
    output = Console()
    for section in sections:
        output.print(section.title, style="bold")
        output.print(section.terminal())
        output.print(section.legend, style="dim", markup=False)


def _report_unread(judged: JudgePlan, judgements: Mapping[str, Judgement], out: Path) -> None:
    count = unread([*judged.scores(judgements), *judged.pairs(judgements)])
    if count:
        print(
            f"{count} judgements of {judged.options.url} name no rating or verdict and count nowhere; "
            f"{out / 'judge' / 'judgements.jsonl'} has their texts; a judge that follows the prompts, or a higher "
            "--judge-max-tokens, may mend it"
        )
