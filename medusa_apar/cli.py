"""`medusa-apar`: the command line.

The front door: the only module of the runtime that knows training and evaluation.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import TextIteratorStreamer, TextStreamer
from transformers.utils import logging as transformers_logging

from . import DEFAULT_MODEL
from .argument_types import ArgumentParser, finite, positive, seed
from .checkpoint import load_tokenizer
from .linears.dtype import DTYPES, WEIGHTS, dtype_named
from .model import MedusaAparModel
from .modes import Mode
from .output import MedusaAparOutput
from .tree.drawing import draw

INTERRUPTED = 130
USER_ERROR = 2


def generate(argv: Sequence[str]) -> None:
    """Answer a prompt."""
    parser = ArgumentParser(prog="medusa-apar generate", description="Answer a prompt.")
    parser.add_argument("prompt", help="what to answer; the model's chat template is put around it")
    parser.add_argument(
        "--model", default=str(DEFAULT_MODEL), help="folder or hub id (default: SmolLM2-135M-Instruct, tuned)"
    )
    parser.add_argument("--heads", help="folder or hub id of heads (default: those in the model's folder)")
    parser.add_argument("--mode", type=_mode, help=f"{', '.join(Mode)} (default: what the model can)")
    parser.add_argument("--show", choices=("text", "tree"), default="text", help="live text, or the paragraph tree")
    parser.add_argument("--compare", action="store_true", help="run all modes and print a table")
    parser.add_argument("--max-new-tokens", type=positive, default=512, help="visible tokens of the answer")
    parser.add_argument("--max-threads", type=positive, default=8, help="threads in a step; more wait")
    parser.add_argument("--max-depth", type=positive, help="threads of this depth do not fork (default: as trained)")
    parser.add_argument(
        "--fork-bias", type=float, help="added to the logit of [Fork]: above 0 more forks (default: as trained)"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights")
    parser.add_argument("--weights", choices=WEIGHTS, default="loaded", help="in which linear layers are computed")
    parser.add_argument("--compile", action="store_true", help="compile steps with torch.compile; slow the first time")
    parser.add_argument(
        "--temperature", type=finite, help="of sampling; 0 decodes greedily (default: as the model's generation config)"
    )
    parser.add_argument("--seed", type=seed, help="of sampling: the same answer again")
    args = parser.parse_args(argv)

    if not args.prompt.strip():
        raise ValueError(f"PROMPT={args.prompt!r} is empty; say what to answer")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load_tokenizer(args.model)
    model = MedusaAparModel.from_pretrained(
        args.model, heads=args.heads, weights=args.weights, dtype=dtype_named(args.dtype)
    ).to(device)
    if args.compile:
        model.compile()
    messages = [{"role": "user", "content": args.prompt}]
    chat: Any = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    input_ids: Tensor = chat["input_ids"].to(device)
    console = Console(highlight=False)
    streamer_class = TextStreamer if args.show == "text" else TextIteratorStreamer
    streamer = streamer_class(tokenizer, skip_prompt=True, skip_special_tokens=True)
    try:
        output = model.generate(
            input_ids,
            max_new_tokens=args.max_new_tokens,
            max_threads=args.max_threads,
            max_depth=args.max_depth,
            fork_bias=args.fork_bias,
            medusa=args.mode.medusa if args.mode else None,
            apar=args.mode.apar if args.mode else None,
            streamer=streamer,
            seed=args.seed,
            return_dict_in_generate=True,
            **_sampling(args.temperature),
        )
    except KeyboardInterrupt:
        if isinstance(streamer, TextIteratorStreamer):
            console.print("".join(streamer))
        raise
    assert isinstance(output, MedusaAparOutput)
    assert output.trees is not None
    assert output.stats is not None
    if args.show == "tree":
        console.print(draw(output.trees[0], tokenizer))
    stats = output.stats
    console.print(
        f"\n{stats.answer_tokens} tokens in {stats.steps} steps ({stats.tokens_per_step:.2f} per step), "
        f"{stats.forks + 1} threads, {stats.tokens_per_second:.0f} tokens/s, {model.dtype} on {model.device}",
        style="dim",
    )
    if args.compare:
        from medusa_apar.eval.decoding.decode import Limits
        from medusa_apar.eval.speed.comparison import compare, comparison_table

        limits = Limits(args.max_new_tokens, args.max_threads, args.max_depth, args.fork_bias)
        with console.status("comparing the modes"):
            answers = compare(model, input_ids, limits)
        console.print(comparison_table(answers))
        rounds = len(answers[Mode.AR])
        console.print(
            f"tokens/s: median of {rounds} round{'s' * (rounds > 1)}, the modes in turn; `generate` is "
            "transformers' own, plain and without control tokens; `ar` is this engine, one token per step",
            style="dim",
        )


def _sampling(temperature: float | None) -> dict[str, Any]:
    """Arguments of `generate` that draw with a temperature; 0 is greedy, None as the model has it."""
    if temperature is None:
        return {}
    return {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}


TRAINING = {
    "questions": "own_text.questions",
    "answers": "own_text.answers",
    "data": "rows.data",
    "backbone": "backbone.training",
    "heads": "heads.training",
    "joint": "heads.joint",
}
"""Commands of `medusa-apar train`, and their modules."""


def train(argv: Sequence[str]) -> None:
    """Write questions and answers, prepare data, train a backbone or heads."""
    parser = ArgumentParser(
        prog="medusa-apar train",
        description="Let a model write questions and answers, prepare data, train a backbone to fork, heads to draft, "
        "or both together.",
    )
    parser.add_argument("what", choices=tuple(TRAINING), help="add --help after it for its arguments")
    what = parser.parse_args(argv[:1]).what
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main: Callable[[Sequence[str]], None] = import_module(f".train.{TRAINING[what]}", __package__).main
    main(argv[1:])


def tune(argv: Sequence[str]) -> None:
    """Make a chat model fork and draft."""
    from .train.tune.pipeline import main

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(argv, COMMANDS)


def evaluate(argv: Sequence[str]) -> None:
    """Measure."""
    from .eval.cli import main

    if status := main(argv):
        raise SystemExit(status)


def serve(argv: Sequence[str]) -> None:
    """Serve a model to OpenAI's clients."""
    from .serving.command import main

    main(argv)


def heads(argv: Sequence[str]) -> None:
    """Inspect, export or verify heads."""
    if argv[:1] == ["verify"]:  # which decodes, and so is no business of the heads' own package
        from medusa_apar.eval.accuracy.verify_heads import main as verify

        if status := verify(argv[1:]):
            raise SystemExit(status)
        return
    from .heads.cli import main

    main(argv)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "generate": generate,
    "serve": serve,
    "tune": tune,
    "train": train,
    "eval": evaluate,
    "heads": heads,
}


EXTRAS = {"serve": "serve"}
"""The extra that a command needs, where it is not `train`."""
NO_EXTRA = {"vllm": "install vLLM as docs/serving.md says, it is in none of this package's extras"}
"""Remedies for packages that no extra has."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; a user's error ends with one line and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # of a terminal that cannot show every character
            stream.reconfigure(errors="backslashreplace")
    parser = ArgumentParser(
        prog="medusa-apar",
        description="Medusa heads and APAR paragraph threads under one attention mask per step.",
        epilog="; ".join(f"{name}: {(command.__doc__ or '').strip()}" for name, command in COMMANDS.items()),
    )
    parser.add_argument("command", choices=tuple(COMMANDS), help="its arguments: `COMMAND --help`")
    arguments = list(sys.argv[1:] if argv is None else argv)
    for argument in arguments:
        _check_text(argument, parser)
    command = COMMANDS[parser.parse_args(arguments[:1]).command]
    transformers_logging.disable_progress_bar()
    try:
        command(arguments[1:])
    except KeyboardInterrupt:
        print("\nmedusa-apar: interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(arguments[0], "train")
        remedy = NO_EXTRA.get(error.name or "", f"pip install -e '.[{extra}]' in a checkout")
        print(f"medusa-apar: error: this needs {error.name}; {remedy}", file=sys.stderr)
        raise SystemExit(USER_ERROR) from None
    except (ValueError, OSError, ImportError) as error:
        print(f"medusa-apar: error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(USER_ERROR) from None
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        print("medusa-apar: error: out of memory; give smaller numbers, or a smaller model", file=sys.stderr)
        raise SystemExit(USER_ERROR) from None


def _check_text(argument: str, parser: argparse.ArgumentParser) -> None:
    """Refuse an argument that is empty or not UTF-8, which neither tokenizers nor JSON files can hold."""
    reason = None
    try:
        argument.encode()
    except UnicodeEncodeError:
        reason = f"{os.fsencode(argument)!r} is not UTF-8; give it in UTF-8, and rename a file whose name is not"
    if not argument or (argument.startswith("--") and argument.endswith("=")):
        reason = f"{argument!r} is empty; give a value, or leave it out"
    if reason is not None:
        parser.exit(USER_ERROR, f"{parser.prog}: error: the argument {reason}\n")


def _mode(name: str) -> Mode:
    try:
        return Mode(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    main()
