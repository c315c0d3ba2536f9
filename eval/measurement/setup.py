"""What the measurements share: loading the model, arguments, and everything that figures depend on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from medusa_apar import DEFAULT_MODEL, fingerprint
from medusa_apar.argument_types import ArgumentParser, names_of, positive
from medusa_apar.checkpoint import load_tokenizer
from medusa_apar.linears.dtype import DTYPES, WEIGHTS, Weights, dtype_named
from medusa_apar.model import MedusaAparModel
from medusa_apar.modes import Mode

from ..decoding.decode import Limits
from .provenance import environment
from .question_sets import BENCHMARKS, BUNDLED, Question


def load_model(
    model: str | None, dtype: str, heads: str | None = None, weights: str = "loaded", *, in_place: bool = False
) -> tuple[MedusaAparModel, PreTrainedTokenizerBase]:
    """Load a folder or a hub id, by default `DEFAULT_MODEL`, and its tokenizer; onto the GPU if there is one.

    Args:
        model: folder or hub id of the model.
        dtype: of the weights, one of `DTYPES`.
        heads: folder or hub id of other heads than those that come with the model.
        weights: in which linear layers are computed, one of `WEIGHTS`.
        in_place: whether the backbone itself may be quantised. It may not where transformers runs it, too.
    """
    source = DEFAULT_MODEL if model is None else model
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load_tokenizer(source)
    at_once = weights if in_place else Weights.LOADED
    loaded = MedusaAparModel.from_pretrained(source, heads=heads, weights=at_once, dtype=dtype_named(dtype))
    loaded.weights = Weights(weights)
    return loaded.to(device), tokenizer


_ARGUMENTS: dict[str, dict[str, Any]] = {
    "model": {"help": "folder or hub id (default: SmolLM2-135M-Instruct, tuned)"},
    "heads": {"help": "folder or hub id of heads; by default those that come with the model"},
    "questions": {"help": f"a file in FastChat's format, or one of {', '.join(BUNDLED + BENCHMARKS)}"},
    "modes": {"type": names_of("mode", tuple(Mode)), "default": ",".join(Mode), "help": "modes, separated by commas"},
    "output_dir": {"type": Path, "required": True, "help": "folder of the results; what is finished is kept"},
    "max_new_tokens": {"type": positive, "default": Limits().max_new_tokens, "help": "tokens of an answer"},
    "dtype": {"choices": DTYPES, "default": "auto", "help": "of the weights"},
    "weights": {"choices": WEIGHTS, "default": "loaded", "help": "in which linear layers are computed"},
    "compile": {"action": "store_true", "help": "compile steps with torch.compile; slow the first time"},
    "max_threads": {"type": positive, "default": Limits().max_threads, "help": "threads in a step"},
    "max_depth": {"type": positive, "help": "depth at which forks end, by default as trained"},
    "fork_bias": {"type": float, "help": "added to the logit of [Fork], by default as trained"},
    "limit": {"type": positive, "help": "take only so many questions, of each category in turn"},
    "generate": {"action": argparse.BooleanOptionalAction, "default": True, "help": "transformers' own generate, too"},
}
DECODING = tuple(_ARGUMENTS)
"""Names of the arguments of a measurement that decodes in the modes."""


def command_parser(name: str, doc: str | None, arguments: Sequence[str], **defaults: Any) -> ArgumentParser:
    """A parser with arguments that several measurements take.

    Args:
        name: of the subcommand of `medusa-apar eval`.
        doc: docstring of its module.
        arguments: which of `DECODING` it takes.
        **defaults: values of arguments that are left out, where they differ from those in `_ARGUMENTS`.
    """
    parser = ArgumentParser(
        prog=f"medusa-apar eval {name}", description=doc, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for each in arguments:
        parser.add_argument("--" + each.replace("_", "-"), **_ARGUMENTS[each])
    parser.set_defaults(**defaults)
    return parser


def limits_of(arguments: argparse.Namespace) -> Limits:
    """The limits that the arguments set."""
    return Limits(
        max_new_tokens=arguments.max_new_tokens,
        max_threads=arguments.max_threads,
        max_depth=arguments.max_depth,
        fork_bias=arguments.fork_bias,
        sample=getattr(arguments, "sample", False),
    )


def model_name(model: str | None) -> str:
    """What a report calls the model that `load_model` loads."""
    return model or DEFAULT_MODEL.name


def describe(
    model: MedusaAparModel,
    arguments: argparse.Namespace,
    questions: Sequence[Question],
    modes: Sequence[str],
) -> dict[str, Any]:
    """Everything that the figures of any measurement depend on."""
    backbone, limits = model.backbone, limits_of(arguments)
    if limits.fork_bias is None and model.control is not None:
        limits = replace(limits, fork_bias=model.control.fork_bias)
    return {
        "model": model_name(arguments.model),
        "weights": fingerprint.of_weights(backbone, model.heads),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "computed": model.weights,
        "compiled": model.compiled,
        "questions": arguments.questions,
        "questions_digest": fingerprint.of_items(questions),
        "modes": [str(mode) for mode in modes],
        **asdict(limits),
        **environment(backbone.device),
    }
