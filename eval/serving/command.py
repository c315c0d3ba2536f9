"""`medusa-apar eval serving`: the same load on the same vLLM, with and without threads.

Every answer's threads are requests of one vLLM in this process. Its KV memory is counted in blocks, so that both modes
have the same, and so much or so little of it as is asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from medusa_apar import fingerprint
from medusa_apar.argument_types import finite, names_of, positive, positives
from medusa_apar.linears.dtype import dtype_named
from medusa_apar.serving.engines.orchestrator import Orchestrator
from medusa_apar.serving.engines.text_engine import EngineError
from medusa_apar.serving.requests import AnswerRequest, Sampling
from medusa_apar.serving.served_model import ServedModel

from ..measurement.provenance import environment
from ..measurement.question_sets import Question, load_questions
from ..measurement.setup import command_parser
from ..measurement.summary_files import write_summary
from .arrivals import Arrivals
from .load_plots import plot_kv, plot_loads
from .load_run import MODES, LoadRun, LoadStore
from .load_summary import summarize

BLOCK_SIZE = 32
FAILED = 1


def _parser() -> argparse.ArgumentParser:
    shared = ("questions", "max_new_tokens", "max_threads", "dtype", "output_dir")
    parser = command_parser("serving", __doc__, shared, questions="lists", max_new_tokens=256)
    parser.add_argument("--model", required=True, help="folder or hub id of a whole model: no adapter")
    parser.add_argument("--requests", type=positive, default=64, help="of a load; questions are asked again and again")
    parser.add_argument(
        "--arrivals", type=_arrivals, default="closed:1,closed:4,closed:16",
        help="loads, separated by commas: closed:N clients that ask again once answered, poisson:R requests a second",
    )  # fmt: skip
    parser.add_argument("--kv-blocks", type=positives, default="64,512", help="KV memory, in blocks of 32 tokens")
    parser.add_argument("--max-model-len", type=positive, default=1024, help="longest context")
    parser.add_argument("--temperature", type=finite, default=0.7, help="so that the same question is answered anew")
    parser.add_argument("--modes", type=names_of("mode", MODES), default=",".join(MODES), help="separated by commas")
    parser.add_argument("--rounds", type=positive, default=3, help="how often every load is measured")
    return parser


def _arrivals(text: str) -> list[Arrivals]:
    try:
        return list(dict.fromkeys(Arrivals.parse(each) for each in text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def requests_of(
    questions: Sequence[Question], model: ServedModel, arguments: argparse.Namespace
) -> list[AnswerRequest]:
    """The first turns of the questions, one after the other and again, each with a seed of its own."""
    requests = []
    for number in range(arguments.requests):
        chat = [{"role": "user", "content": questions[number % len(questions)].turns[0]}]
        chosen: Any = model.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)
        requests.append(
            AnswerRequest(
                prompt_token_ids=chosen["input_ids"],
                max_new_tokens=arguments.max_new_tokens,
                max_depth=model.max_depth,
                max_threads=arguments.max_threads,
                sampling=Sampling(temperature=arguments.temperature, seed=number),
            )
        )
    return requests


def weights_of(source: str) -> str:
    """A short name for the weights of a folder or hub id, which the engine loads in a process of its own."""
    if Path(source).is_dir():
        return fingerprint.of_files(Path(source), "**/*.safetensors")
    return str(AutoConfig.from_pretrained(source)._commit_hash)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        import vllm
    except ModuleNotFoundError:
        parser.error("this needs vLLM; `make test-serving` builds an environment that has it")
    questions = load_questions(arguments.questions)
    model = ServedModel.from_pretrained(arguments.model, arguments.model)
    run = LoadRun(requests_of(questions, model, arguments), arguments.arrivals, arguments.rounds, arguments.modes)
    same = ("model", "questions", "requests", "max_model_len", "max_new_tokens", "max_threads", "temperature")
    settings = {name: getattr(arguments, name) for name in same} | {
        "weights": weights_of(arguments.model),
        "questions_digest": fingerprint.of_items(questions),
        "block_size": BLOCK_SIZE,
        "dtype": str(dtype_named(arguments.dtype)).removeprefix("torch."),
        "vllm": vllm.__version__,
        **environment(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
    }
    store = LoadStore(arguments.output_dir, settings)
    with store:
        try:
            asyncio.run(_measure(run, store, model, arguments))
        except EngineError as error:
            print(f"{error}; {len(store.records)} loads are kept, and the same command goes on there", file=sys.stderr)
            return FAILED
    title = f"{arguments.model} on vLLM: threads as requests, against one request for each answer"
    tables = summarize(store.records.values())
    write_summary(store.folder, title, store.settings, tables)
    plot_loads(tables, store.folder / "loads.png", title=title)
    plot_kv(store.records.values(), store.folder / "kv.png", title=f"{title}; first round")
    return 0


async def _measure(run: LoadRun, store: LoadStore, model: ServedModel, arguments: argparse.Namespace) -> None:
    from medusa_apar.serving.engines.vllm_engine import VllmEngine

    from .vllm_gauges import VllmGauges

    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; on CPUs vLLM takes most of the memory otherwise
    for blocks in arguments.kv_blocks:
        if not run.missing(store, blocks):
            continue
        engine = VllmEngine(
            arguments.model,
            dtype=dtype_named(arguments.dtype),
            max_model_len=arguments.max_model_len,
            block_size=BLOCK_SIZE,
            num_gpu_blocks_override=blocks,
            enforce_eager=True,
        )
        try:
            await run.run(store, blocks, Orchestrator(engine, model), VllmGauges(engine))
        finally:
            await engine.close()
