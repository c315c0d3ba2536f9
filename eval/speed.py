"""`medusa-apar eval speed`: tokens/s and tokens per step of the modes, side by side on a question set."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from medusa_apar import EMBEDDED
from medusa_apar.model import MedusaAparModel
from medusa_apar.modes import Mode
from medusa_apar.precision import default_dtype
from medusa_apar.train.provenance import commit

from . import fingerprint
from .answers import write_answers
from .decoding import BASELINE, Limits
from .peers import Peer, PeerOptions, load_assistant
from .plot import plot_speed_up
from .questions import BENCHMARKS, BUNDLED, load_questions
from .speed_run import SpeedRun
from .summary import SummaryRow, summarize
from .tables import LEGEND, markdown, terminal_table
from .turns import TurnStore

EMBEDDED_NAME = "embedded"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_INTERRUPTED = 130


def load_model(model: str | None, dtype: str) -> tuple[MedusaAparModel, PreTrainedTokenizerBase]:
    """Load a folder or a hub id, by default the bundled model, and its tokenizer; onto the GPU if there is one."""
    source = EMBEDDED if model is None else model
    chosen = default_dtype() if dtype == "auto" else _DTYPES[dtype]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return MedusaAparModel.from_pretrained(source, dtype=chosen).to(device), AutoTokenizer.from_pretrained(source)


def describe(run: SpeedRun, model: str, questions: str) -> dict[str, Any]:
    """Everything that the figures depend on."""
    backbone = run.model.backbone
    device = backbone.device
    return {
        "model": model,
        "weights": fingerprint.of_weights(backbone, run.model.heads),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "questions": questions,
        "questions_digest": fingerprint.of_questions(run.questions),
        "modes": [str(mode) for mode in run.modes],
        **_describe_peers(run),
        **asdict(run.limits),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu_threads": torch.get_num_threads(),
        "commit": commit(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _describe_peers(run: SpeedRun) -> dict[str, Any]:
    assistant = run.peers.assistant
    lookup = Peer.PROMPT_LOOKUP in run.modes
    return {
        "prompt_lookup_tokens": run.peers.prompt_lookup_tokens if lookup else None,
        "assistant_weights": None if assistant is None else fingerprint.of_weights(assistant),
    }


def write_report(run: SpeedRun, store: TurnStore) -> list[SummaryRow]:
    """Write `summary.json`, `summary.md`, `speedup.png` and `answers/` beside the turns."""
    rows = summarize(store.records.values(), run.modes)
    folder = store.folder
    summary = {"settings": store.settings, "rows": [asdict(row) for row in rows]}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    settings = "\n".join(f"- {name}: {value}" for name, value in store.settings.items())
    text = f"# Speed\n\n{markdown(rows)}\n{LEGEND}.\n\n{settings}\n"
    (folder / "summary.md").write_text(text, encoding="utf-8")
    plot_speed_up(rows, folder / "speedup.png")
    (folder / "answers").mkdir(exist_ok=True)
    for mode in run.modes:
        write_answers(folder / "answers" / f"{mode}.jsonl", store.settings["model"], mode, run.questions, store.records)
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medusa-apar eval speed", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", help="folder or hub id; by default the bundled model")
    names = ", ".join(BUNDLED + BENCHMARKS)
    parser.add_argument("--questions", default="everyday", help=f"a file in FastChat's format, or one of {names}")
    parser.add_argument("--modes", default=",".join(Mode), help="which modes, separated by commas")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; finished turns are kept")
    parser.add_argument("--max-new-tokens", type=_positive, default=Limits().max_new_tokens, help="tokens of an answer")
    parser.add_argument("--dtype", choices=("auto", *_DTYPES), default="auto", help="of the weights")
    parser.add_argument("--max-threads", type=_positive, default=Limits().max_threads, help="threads in a step")
    parser.add_argument("--max-depth", type=_positive, default=Limits().max_depth, help="depth at which forks end")
    parser.add_argument("--limit", type=_positive, help="take only the first questions")
    parser.add_argument("--warmup", type=_not_negative, default=2, help="questions decoded before the clock starts")
    parser.add_argument(
        "--baseline",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="transformers' own generate beside the modes",
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="transformers' prompt lookup beside the modes, and its assisted decoding given an --assistant",
    )
    parser.add_argument("--assistant", metavar="DIR", help="draft model of assisted decoding: folder or hub id")
    parser.add_argument("--prompt-lookup-tokens", type=_positive, help="guesses of prompt lookup, by default 10")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is less than 0")
    return value


def _modes(text: str, *, baseline: bool, peers: bool, assisted: bool) -> list[str]:
    modes: list[str] = [str(Mode(name.strip())) for name in text.split(",")]
    beside = [BASELINE] if baseline else []
    if peers:
        beside.append(str(Peer.PROMPT_LOOKUP))
    if assisted:
        beside.append(str(Peer.ASSISTED))
    return list(dict.fromkeys([*beside, *modes]))


def _check_peers(arguments: argparse.Namespace) -> None:
    for name in ("assistant", "prompt_lookup_tokens"):
        value = getattr(arguments, name)
        if value is not None and not arguments.peers:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{name}={value!r} is of no use without the peers; add --peers, or leave {option} out")


def _peer_options(arguments: argparse.Namespace, model: MedusaAparModel) -> PeerOptions:
    return PeerOptions(
        arguments.prompt_lookup_tokens or PeerOptions().prompt_lookup_tokens,
        None if arguments.assistant is None else load_assistant(arguments.assistant, model),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        _check_peers(arguments)
        modes = _modes(
            arguments.modes,
            baseline=arguments.baseline,
            peers=arguments.peers,
            assisted=arguments.assistant is not None,
        )
        questions = load_questions(arguments.questions)[: arguments.limit]
        model, tokenizer = load_model(arguments.model, arguments.dtype)
        limits = Limits(arguments.max_new_tokens, arguments.max_threads, arguments.max_depth)
        run = SpeedRun(model, tokenizer, questions, modes, limits, _peer_options(arguments, model))
        settings = describe(run, arguments.model or EMBEDDED_NAME, arguments.questions)
        store = TurnStore(arguments.out, settings)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    with store:
        try:
            run.run(store, warm_up=arguments.warmup)
        except KeyboardInterrupt:
            kept = len(store.records)
            print(f"interrupted; {kept} turns are kept, and the same command goes on from there", file=sys.stderr)
            return _INTERRUPTED
        except ValueError as error:
            parser.error(str(error))
    rows = write_report(run, store)
    output = Console()
    output.print(terminal_table(rows))
    output.print(LEGEND, style="dim")
    skipped = sum(record.skipped is not None for record in store.records.values())
    if skipped:
        output.print(f"{skipped} turns were skipped; {store.path} says why")
    output.print(f"results: {arguments.out}")
    return 0
