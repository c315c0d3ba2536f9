"""`medusa-apar eval quality`: how good answers are by likelihood, repetition, structure, and a judge's word."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medusa_apar import fingerprint
from medusa_apar.argument_types import not_negative, positive, seconds
from medusa_apar.model import MedusaAparModel
from medusa_apar.modes import Mode
from medusa_apar.train.training_record import commit

from ..answers.answer_files import Answers, load_answers
from ..judge.inquiries import Assessment, assess
from ..judge.judge_prompts import JudgeMode, load_judge_prompts, load_references
from ..judge.judgements import JudgementStore, JudgeOptions
from ..judge.judgment_files import write_judgments
from ..judge.scores import summarize_scores, unread
from ..measurement.provenance import environment
from ..measurement.question_sets import BENCHMARKS, BUNDLED, Question, load_questions
from ..measurement.setup import command_parser, load_model, model_name
from ..measurement.summary_files import write_summary
from ..measurement.tables import Section
from .measure_summary import summarize
from .measures import AnsweredTurn, Measured, MeasuredStore, Measurement, answered_turns

FAILED = 1
_SHOWN_FAILURES = 3
_DEFAULTS = JudgeOptions(url="http://localhost", model="")
_OF_A_JUDGE = ("judge_model", "judge_prompts", "references")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("quality", __doc__, ("dtype", "output_dir", "limit"))
    parser.add_argument("--model", help="whose backbone reads the answers (default: SmolLM2-135M-Instruct, tuned)")
    names = ", ".join(BUNDLED + BENCHMARKS)
    parser.add_argument("--questions", required=True, help=f"what was answered: a file, or one of {names}")
    parser.add_argument("--answers", type=Path, required=True, help="folder with a file MODE.jsonl per mode")
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
    judge.add_argument("--parallel", type=positive, default=1, help="requests at a time")
    return parser


def _judge_of(arguments: argparse.Namespace) -> JudgeOptions | None:
    if arguments.judge_url is None:
        for name in _OF_A_JUDGE:
            if (value := getattr(arguments, name)) is not None:
                raise ValueError(f"{name}={value!r} is of no use without a judge; name one with --judge-url")
        return None
    if arguments.judge_model is None:
        raise ValueError(f"judge_url={arguments.judge_url!r} needs the judge's name there; give it with --judge-model")
    if find_spec("openai") is None:
        raise ValueError(
            f"judge_url={arguments.judge_url!r} needs the package openai; install it with "
            "pip install -e '.[judge]' in a checkout"
        )
    return JudgeOptions(
        url=arguments.judge_url,
        model=arguments.judge_model,
        key_variable=arguments.judge_key,
        max_tokens=arguments.judge_max_tokens,
        timeout=arguments.judge_timeout,
        retries=arguments.judge_retries,
    )


def _assessments(
    arguments: argparse.Namespace, questions: Sequence[Question], answers: Mapping[str, Answers]
) -> list[Assessment]:
    """What the judge is to look at."""
    mode = JudgeMode(arguments.judge_mode)
    prompts = load_judge_prompts(arguments.judge_prompts, mode)
    references = load_references(arguments.references, arguments.questions, questions)
    return assess(questions, answers, prompts, references, arguments.baseline if mode is JudgeMode.PAIRWISE else None)


def _describe(model: MedusaAparModel, name: str | None) -> dict[str, Any]:
    """Everything that the figures of an answer depend on."""
    backbone = model.backbone
    around = environment(backbone.device)
    return {
        "model": model_name(name),
        "weights": fingerprint.of_weights(backbone),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        **{each: around[each] for each in ("device", "torch", "transformers")},
    }


def _describe_report(arguments: argparse.Namespace, questions: Sequence[Question]) -> dict[str, Any]:
    """What the tables depend on beside that."""
    judge = () if arguments.judge_url is None else ("judge_url", "judge_model", "judge_mode", "judge_max_tokens")
    baseline = ("baseline",) if judge and arguments.judge_mode == JudgeMode.PAIRWISE else ()
    return {
        "answers": str(arguments.answers),
        "questions": arguments.questions,
        "questions_digest": fingerprint.of_items(questions),
        "commit": commit(),
        **{name: getattr(arguments, name) for name in judge + baseline},
    }


def _write_answers(path: Path, turns: Iterable[AnsweredTurn], measured: Mapping[str, Measured]) -> None:
    """Write a line per answer; an empty one has no figures."""
    with path.open("w", encoding="utf-8") as file:
        for turn in turns:
            found = measured.get(turn.digest)
            row = {
                "question_id": turn.question.question_id,
                "category": turn.question.category,
                "turn": turn.turn,
                "mode": turn.mode,
                "tokens": found.tokens if found else 0,
                "nats_per_token": found.nats / found.tokens if found and found.nats is not None else None,
                "distinct_4grams": found.distinct_4grams if found else None,
                "defects": [str(defect) for defect in turn.defects],
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


async def _ask(assessments: Iterable[Assessment], store: JudgementStore, parallel: int) -> list[str]:
    """Ask the judge what is not known yet.

    Returns:
        What the endpoint refused, or why no more could be asked.
    """
    from ..judge.endpoint import Endpoint, JudgeError, judge  # needs the package openai

    inquiries = [inquiry for each in assessments for inquiry in each.inquiries]
    async with Endpoint(store.options) as endpoint:
        try:
            return await judge(inquiries, endpoint, store, parallel)
        except JudgeError as error:
            return [f"{error}; {len(store.records)} judgements are kept, and the same command goes on from there"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    out: Path = arguments.output_dir
    everything = load_questions(arguments.questions)
    answers = load_answers(arguments.answers, everything, arguments.limit)
    questions = everything[: arguments.limit]
    judge = _judge_of(arguments)
    assessments = _assessments(arguments, questions, answers) if judge else []
    model, tokenizer = load_model(arguments.model, arguments.dtype)
    measurement = Measurement(model, tokenizer)
    store = MeasuredStore(out, _describe(model, arguments.model))
    judgements = JudgementStore(out / "judge", judge) if judge else None
    turns = list(answered_turns(questions, answers))
    with store:
        measurement.run(turns, store)
    failures = []
    if judgements is not None:
        with judgements:
            failures = asyncio.run(_ask(assessments, judgements, arguments.parallel))
    _write_answers(out / "answers.jsonl", turns, store.records)
    sections: list[Section[Any]] = [summarize(turns, store.records)]
    if judgements is not None:
        sections.append(summarize_scores(assessments, judgements.records))
        write_judgments(judgements, assessments)
    write_summary(out, "Quality", store.settings | _describe_report(arguments, questions), sections)
    if judgements is not None and (count := unread(sections[1])):
        print(
            f"{count} judgements of {judgements.options.url} name no rating or verdict and count nowhere; "
            f"{judgements.path} has their texts; a judge that follows the prompts, or a higher --judge-max-tokens, "
            "may mend it"
        )
    hidden = len(failures) - _SHOWN_FAILURES
    for failure in failures[:_SHOWN_FAILURES] + [f"and {hidden} more like these"] * (hidden > 0):
        print(f"{parser.prog}: error: {failure}", file=sys.stderr)
    return FAILED if failures else 0
