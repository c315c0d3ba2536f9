"""Every command, with every argument broken in every way: one line and exit status 2, and never a traceback."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import uvicorn
from transformers import Trainer, TrainingArguments

from medusa_apar import ControlTokens, MedusaAparModel
from medusa_apar.cli import main
from medusa_apar.train.own_text import answers
from medusa_apar.train.own_text import questions as train_questions
from medusa_apar.train.tune.rates import Rates

from .conftest import random_heads
from .train.conftest import byte_tokenizer, tiny_llama

ROWS = ("1. Red: it is warm.\n2. Blue: it is cold.\n3. Green: it is calm.", "No list at all.")
HUGE = "9" * 30
CONFIGS = (
    "config.json", "generation_config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json",
    "settings.json", "_settings.json", "summary.json", "turns.jsonl", "batches.jsonl", "points.jsonl",
)  # fmt: skip


class Workshop:
    """A folder with a tiny model, data for every command, and broken things.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model, self.heads = root / "model", root / "model" / "heads"
        self.rows, self.questions = root / "rows.jsonl", root / "questions.jsonl"
        self.answers, self.speed = root / "answers", root / "speed"
        self._outputs = 0
        self._save_model()
        rows = [{"prompt": f"Colours {n}?", "response": ROWS[n % 2]} for n in range(4)]
        self.rows.write_text("".join(json.dumps(row) + "\n" for row in rows))
        questions = [{"question_id": number, "category": "colours", "turns": ["Which?"]} for number in (1, 2)]
        self.questions.write_text("".join(json.dumps(question) + "\n" for question in questions))
        self.answers.mkdir()
        choice = {"index": 0, "turns": [ROWS[0]], "idxs": [4], "new_tokens": [9]}
        answers = [{"question_id": number, "choices": [choice]} for number in (1, 2)]
        (self.answers / "ar.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
        self.values = self._broken()

    def _save_model(self) -> None:
        tokenizer = byte_tokenizer(control_tokens=True)
        torch.manual_seed(0)
        backbone = tiny_llama(tokenizer, context=128)
        backbone.generation_config.eos_token_id = tokenizer.eos_token_id
        ControlTokens.of_tokenizer(tokenizer).record_in(backbone.config)
        heads = random_heads(backbone)
        heads.config.acceptance = [0.1] * 3
        MedusaAparModel(backbone, heads).save_pretrained(self.model)
        tokenizer.save_pretrained(self.model)

    def _broken(self) -> dict[str, str]:
        """Values of an argument by what is wrong with them."""
        for name, content in (("words", b"some words\n"), ("half.json", b'{"a": '),
                              ("bytes", b"\x00\xff\xfe\x80" * 50), ("surrogate.jsonl", b'{"turns": ["\\ud83d"]}\n'),
                              ("secret", b"{}")):  # fmt: skip
            (self.root / name).write_bytes(content)
        (self.root / "secret").chmod(0)
        (self.root / "empty").mkdir()
        for folder, content in (("broken", "{ broken"), ("listed", "[1]"), ("foreign", '{"a": 1}')):
            (self.root / folder).mkdir()
            for name in CONFIGS:
                (self.root / folder / name).write_text(content)
        (self.root / "folders").mkdir()
        for name in (*CONFIGS, "model.safetensors"):
            (self.root / "folders" / name).mkdir()
        paths = ("words", "half.json", "bytes", "surrogate.jsonl", "secret", "empty", "broken", "listed",
                 "foreign", "folders", "words/below", "model", "model/heads", "speed")  # fmt: skip
        return {
            "no UTF-8": os.fsdecode(b"\xff"), "empty": "", "negative": "-1", "zero": "0", "not a number": "nan",
            "endless": "inf", "huge": HUGE, "a fraction": "0.5", "an unknown word": "no-such-thing",
            "an unknown hub id": "nobody/nothing", "too long": "x" * 5000, "a list with a hole": "1,,2",
            "no URL": "http://[", **{f"path {path}": str(self.root / path) for path in paths},
        }  # fmt: skip

    def output(self) -> str:
        """A folder that nothing has been written to."""
        self._outputs += 1
        return str(self.root / f"output-{self._outputs}")


Good = Callable[[Workshop], list[str]]


def measuring(shop: Workshop) -> list[str]:
    limits = ["--max-new-tokens", "4", "--limit", "1", "--dtype", "float32", "--modes", "medusa-apar"]
    return ["--model", str(shop.model), "--questions", str(shop.questions), "--output_dir", shop.output(), *limits]


def training(shop: Workshop) -> list[str]:
    return [
        "--model", str(shop.model), "--data", str(shop.rows), "--output_dir", shop.output(), "--max_length", "128",
        "--max_steps", "1", "--use_cpu", "True", "--disable_tqdm", "True",
    ]  # fmt: skip


GOOD: dict[str, Good] = {
    "generate": lambda shop: ["Hi", "--model", str(shop.model), "--max-new-tokens", "4", "--dtype", "float32"],
    "serve": lambda shop: ["--model", str(shop.model), "--dtype", "float32"],
    "tune": lambda shop: [
        str(shop.model), "--output_dir", shop.output(), "--max_new_tokens", "16", "--max_length", "64",
    ],
    "train questions": lambda shop: ["--model", str(shop.model), "--output", f"{shop.output()}.jsonl"],
    "train answers": lambda shop: [
        "--model", str(shop.model), "--data", str(shop.questions), "--output", f"{shop.output()}.jsonl",
    ],
    "train data": lambda shop: [str(shop.rows), "--model", str(shop.model), "--output_dir", shop.output()],
    "train backbone": training,
    "train heads": training,
    "train joint": training,
    "eval backbone": lambda shop: [str(shop.rows), "--model", str(shop.model), "--max_length", "128"],
    "eval batch": lambda shop: [*measuring(shop), "--rounds", "1", "--batch-sizes", "1"],
    "eval heads": lambda shop: [
        "--model", str(shop.model), "--questions", str(shop.questions), "--max-new-tokens", "4", "--nodes", "4",
        "--dtype", "float32",
    ],
    "eval quality": lambda shop: [
        "--answers", str(shop.answers), "--questions", str(shop.questions), "--model", str(shop.model),
        "--output_dir", shop.output(), "--dtype", "float32",
    ],
    "eval replay": lambda shop: [
        "--answers", str(shop.answers / "ar.jsonl"), "--questions", str(shop.questions), "--backbone", "tiny",
        "--modes", "ar", "--output_dir", shop.output(), "--dtype", "float32",
    ],
    "eval report": lambda shop: [str(shop.speed), "--output_dir", shop.output()],
    "eval serving": lambda shop: [
        "--questions", str(shop.questions), "--model", str(shop.model), "--output_dir", shop.output(),
    ],
    "eval speed": lambda shop: [*measuring(shop), "--warmup", "0"],
    "heads inspect": lambda shop: [str(shop.heads)],
    "heads export": lambda shop: [str(shop.heads), "--format", "vllm", "--output", shop.output()],
    "heads verify": lambda shop: [str(shop.heads), "--max-new-tokens", "4", "--limit", "1"],
}  # fmt: skip
"""Arguments with which every command does its work."""


def status_of(argv: list[str]) -> int:
    """The exit status of a command."""
    try:
        main(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def parser_of(command: list[str]) -> argparse.ArgumentParser:
    """The parser that shows a command's help."""
    found: list[argparse.ArgumentParser] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "print_help", lambda parser, file=None: found.append(parser))
        assert status_of([*command, "--help"]) == 0
    return found[0]


def commands(above: tuple[str, ...] = ()) -> Iterator[str]:
    """All commands, as the parsers themselves list them."""
    choices = [action.choices for action in parser_of([*above])._actions if not action.option_strings]
    if not choices or choices[0] is None:
        yield " ".join(above)
    else:
        for choice in choices[0]:
            yield from commands((*above, choice))


def arguments_of(command: str) -> list[argparse.Action]:
    """What takes a value; of the hundred arguments of transformers' own those that a training gives other defaults."""
    actions = parser_of(command.split())._actions
    of_transformers = set(TrainingArguments.__dataclass_fields__) - {"output_dir", "learning_rate", "warmup_steps"}
    return [
        action
        for action in actions
        if action.nargs != 0
        and not isinstance(action, argparse.BooleanOptionalAction)
        and not (command.startswith("train") and action.dest in of_transformers)
    ]


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    shop = Workshop(tmp_path_factory.mktemp("shop"))
    good = GOOD["eval speed"](shop)
    good[good.index("--output_dir") + 1] = str(shop.speed)
    main(["eval", "speed", *good])
    return shop


@pytest.fixture(autouse=True)
def _nothing_lasts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, no server and no training: what reaches them was accepted."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(uvicorn, "run", lambda *_, **__: None)

    def accepted(*_: Any, **__: Any) -> None:
        raise SystemExit(0)

    monkeypatch.setattr(Trainer, "train", accepted)
    monkeypatch.setattr(train_questions, "_sample", accepted)
    monkeypatch.setattr(answers, "_answer", accepted)
    monkeypatch.setattr(Rates, "measure", accepted)
    monkeypatch.chdir(tmp_path)


def test_every_command_is_tried() -> None:
    assert set(commands()) == set(GOOD)


@pytest.mark.parametrize("command", GOOD)
def test_the_good_arguments_are_good(command: str, shop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    status = status_of([*command.split(), *GOOD[command](shop)])
    said = capsys.readouterr().err
    if command == "eval serving" and status:
        assert "this needs vLLM" in said
    elif command != "heads verify":  # whose heads are random
        assert status == 0, said


@pytest.mark.integration
@pytest.mark.parametrize("command", GOOD)
def test_a_broken_argument_is_told_in_one_line(
    command: str, shop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    for action in arguments_of(command):
        for kind, value in shop.values.items():
            good = GOOD[command](shop)
            option = action.option_strings[0] if action.option_strings else None
            argv = [value, *good[1:]] if option is None else [*good, f"{option}={value}"]
            what = f"{command}, {option or action.dest}: {kind}"
            capsys.readouterr()
            try:
                status = status_of([*command.split(), *argv])
            except Exception as error:
                pytest.fail(f"{what}: {type(error).__name__}: {error}")
            said = capsys.readouterr().err.strip()
            assert status in (0, 1, 2), f"{what}: {said}"
            if kind in ("no UTF-8", "empty"):
                assert status == 2, what
            if status == 2:
                assert ": error: " in said.splitlines()[-1], f"{what}: {said}"
                assert said.splitlines()[-1].startswith("medusa-apar"), f"{what}: {said}"
