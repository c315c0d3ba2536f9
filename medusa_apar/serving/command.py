"""`medusa-apar serve`: an OpenAI-compatible server that writes answers in threads."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Sequence
from math import inf
from typing import Any

import torch
import uvicorn

from medusa_apar import DEFAULT_MODEL
from medusa_apar.adapter import is_adapter
from medusa_apar.argument_types import ArgumentParser, not_negative, port, positive, seconds
from medusa_apar.linears.dtype import DTYPES, WEIGHTS, dtype_named
from medusa_apar.model import MedusaAparModel

from .engines.fleet import Fleet
from .engines.native import MAX_BATCH, NativeAnswerer
from .engines.orchestrator import Orchestrator
from .engines.text_engine import TIMEOUT
from .http.server import ServerLimits, create_app
from .requests import AnswerRequest
from .served_model import ServedModel
from .snapshots import Answerer

API_KEY = "MEDUSA_APAR_API_KEY"
URL_API_KEY = "MEDUSA_APAR_URL_API_KEY"
_LIMITS = ServerLimits()


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="medusa-apar serve", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--model", default=str(DEFAULT_MODEL), help="folder or hub id (default: SmolLM2-135M-Instruct, tuned)"
    )
    parser.add_argument("--served-model-name", help="name under which clients ask for it; by default that of --model")
    parser.add_argument(
        "--engine",
        choices=("native", "vllm", "http"),
        default="native",
        help="native: our decoder, with heads and threads under one mask; vllm: vLLM in this process, a request for "
        "each thread; http: the same in front of servers at --url",
    )
    parser.add_argument("--url", action="append", default=[], help="of a completions server, with /v1; repeatable")
    parser.add_argument("--url-model", help="name under which these serve the model; by default --model")
    parser.add_argument("--url-api-key", help=f"that these want; by default what {URL_API_KEY} holds")
    parser.add_argument(
        "--url-timeout", type=seconds, default=60.0, help="seconds between two tokens before one failed"
    )
    parser.add_argument("--heads", help="folder or hub id of heads for --engine native; by default those of the model")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights")
    parser.add_argument("--weights", choices=WEIGHTS, default="loaded", help="in which linear layers are computed")
    parser.add_argument("--compile", action="store_true", help="compile steps with torch.compile; slow the first time")
    parser.add_argument(
        "--url-priorities", action="store_true",
        help="the servers are vLLM's, with --scheduling-policy priority: threads of earlier answers go first",
    )  # fmt: skip
    parser.add_argument(
        "--engine-timeout", type=seconds, default=TIMEOUT,
        help="seconds without a token of any answer after which decoding has stalled",
    )  # fmt: skip
    parser.add_argument(
        "--max-model-len", type=positive, help="longest context, as the engine has it; by default the model's"
    )
    parser.add_argument(
        "--block-size", type=positive, default=32, help="KV block for --engine vllm: full ones are shared"
    )
    parser.add_argument("--tensor-parallel-size", type=positive, default=1, help="GPUs for --engine vllm")
    parser.add_argument(
        "--distributed-executor-backend", choices=("mp", "ray"),
        help="what starts the workers of --engine vllm; ray for several machines; by default vLLM chooses",
    )  # fmt: skip
    parser.add_argument("--speculative-heads", help="folder of heads in vLLM's layout, for --engine vllm")
    parser.add_argument("--speculative-tokens", type=positive, default=4, help="draft tokens of these heads in a step")
    parser.add_argument("--max-batch", type=positive, default=MAX_BATCH, help="answers in a step of --engine native")
    parser.add_argument(
        "--enable-prefix-caching", action=argparse.BooleanOptionalAction, default=True,
        help="keep keys and values for prompts that begin like earlier ones; of --engine native, vllm always does",
    )  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=port, default=8000)
    parser.add_argument(
        "--api-key", nargs="+", metavar="KEY",
        help=f"clients send one of these; by default what {API_KEY} holds, separated by commas, if anything",
    )  # fmt: skip
    parser.add_argument(
        "--cors-origins", nargs="+", default=[], metavar="ORIGIN", help="pages in browsers that may ask; * for all"
    )
    parser.add_argument("--max-running", type=positive, default=_LIMITS.running, help="answers at a time")
    parser.add_argument(
        "--max-waiting", type=not_negative, default=_LIMITS.waiting, help="requests that wait; to others status 429"
    )
    parser.add_argument(
        "--max-per-client", type=positive, help="requests of one address at a time; to others status 429"
    )
    parser.add_argument("--max-threads", type=positive, default=_LIMITS.threads, help="threads of an answer at a time")
    parser.add_argument("--max-body-bytes", type=positive, default=_LIMITS.body_bytes, help="of a request")
    parser.add_argument(
        "--shutdown-timeout", type=not_negative, default=30, help="seconds that running answers are given"
    )
    return parser


def answerer_of(arguments: argparse.Namespace, model: ServedModel) -> Answerer:
    """What writes the answers.

    Raises:
        ValueError: for arguments that do not fit the engine.
    """
    if (arguments.engine == "http") != bool(arguments.url):
        raise ValueError(
            f"--engine {arguments.engine} with {len(arguments.url)} --url: --engine http takes one or more"
        )
    if arguments.engine == "http":
        urls, name = arguments.url, arguments.url_model or arguments.model
        fleet = Fleet.at(
            urls, name,
            api_key=arguments.url_api_key or os.environ.get(URL_API_KEY) or "none",
            timeout=arguments.url_timeout, priorities=arguments.url_priorities,
        )  # fmt: skip
        return Orchestrator(fleet, model, arguments.engine_timeout)
    if arguments.engine == "vllm":
        if is_adapter(arguments.model):
            raise ValueError(
                f"--engine vllm: --model {arguments.model} is an adapter; give the merged model, which "
                "MedusaAparModel.from_pretrained(...).save_pretrained(...) makes, or leave --engine out"
            )
        from .engines.vllm_engine import VllmEngine, speculative_config

        options: dict[str, Any] = {
            "dtype": dtype_named(arguments.dtype),
            "max_model_len": arguments.max_model_len,
            "block_size": arguments.block_size,
            "tensor_parallel_size": arguments.tensor_parallel_size,
            "distributed_executor_backend": arguments.distributed_executor_backend,
        }
        if arguments.speculative_heads:
            options["speculative_config"] = speculative_config(
                arguments.speculative_heads, arguments.speculative_tokens
            )
        return Orchestrator(VllmEngine(arguments.model, **options), model, arguments.engine_timeout)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = MedusaAparModel.from_pretrained(
        arguments.model, heads=arguments.heads, weights=arguments.weights, dtype=dtype_named(arguments.dtype)
    ).to(device)
    if arguments.compile:
        loaded.compile()
        asyncio.run(_warm_up(NativeAnswerer(loaded, model, arguments.max_batch, timeout=inf)))
    return NativeAnswerer(
        loaded, model, arguments.max_batch, arguments.engine_timeout, prefix_caching=arguments.enable_prefix_caching
    )


async def _warm_up(answerer: NativeAnswerer) -> None:
    """Answer a short request, so that steps are compiled before clients connect."""
    async for _ in answerer.answer(AnswerRequest([0], 2, max_depth=1)):
        pass
    await answerer.close()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the server until it is told to stop."""
    arguments = _parser().parse_args(argv)
    name = arguments.served_model_name or (
        DEFAULT_MODEL.name if arguments.model == str(DEFAULT_MODEL) else arguments.model
    )
    model = ServedModel.from_pretrained(arguments.model, name, arguments.max_model_len)
    limits = ServerLimits(
        running=arguments.max_running,
        waiting=arguments.max_waiting,
        threads=arguments.max_threads,
        body_bytes=arguments.max_body_bytes,
        per_client=arguments.max_per_client,
    )
    api_keys = [key for key in arguments.api_key or os.environ.get(API_KEY, "").split(",") if key]
    app = create_app(answerer_of(arguments, model), model, limits, api_keys, arguments.cors_origins)
    uvicorn.run(
        app,
        host=arguments.host,
        port=arguments.port,
        timeout_graceful_shutdown=arguments.shutdown_timeout,
        log_level="info",
    )
