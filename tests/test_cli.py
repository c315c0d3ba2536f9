"""The command line: what it prints, and one line for a user's error."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from medusa_apar import MedusaAparModel, ParagraphTree, SequentialHeads, Thread
from medusa_apar.argument_types import ArgumentParser
from medusa_apar.cli import COMMANDS, main
from medusa_apar.engine.engine import Engine
from medusa_apar.engine.state import Request
from medusa_apar.tree.drawing import draw

from .conftest import CHILD, EOS, FORK
from .fixtures import TINY


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["generate", "  "], "is empty; say what to answer"),
        (["generate", "hello", "--model", "/nowhere/at/all"], "/nowhere/at/all"),
        (["generate", "hello", "--max-new-tokens", "0"], "argument --max-new-tokens: 0 is less than 1"),
        (["generate", "hello", "--temperature", "nan"], "argument --temperature: nan is not a number from 0"),
        (["generate", "hello", "--seed", "9" * 30], "is above 9223372036854775807"),
        (["generate", "caf\udce9"], r"the argument b'caf\xe9' is not UTF-8; give it in UTF-8"),
        (["generate", "hello", "--model", ""], "the argument '' is empty; give a value, or leave it out"),
        (["heads", "export", "x", "--format", "vllm", "--output="], "the argument '--output=' is empty"),
        (["generate", "hello", "--model", str(TINY / "heads")], "heads holds draft heads and no model"),
        (["generate", "hello", "--model", str(TINY / "config.json")], "config.json is a file; give the folder of"),
        (["generate", "hello", "--model", str(TINY), "--heads", str(TINY)], "is no config of draft heads"),
        (["serve", "--port", "70000"], "argument --port: 70000 is above 65535"),
        (["heads", "inspect", "/nowhere/at/all"], "/nowhere/at/all"),
        (
            ["eval", "speed", "--questions", "/nowhere/questions.jsonl", "--output_dir", "/nowhere"],
            "/nowhere/questions.jsonl",
        ),
    ],
)
def test_a_users_error_is_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("medusa-apar")
    assert ": error: " in line
    assert message in line


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("batch", ["--output-dir"]),
        ("quality", ["--output-dir", "--questions", "--answers"]),
        ("replay", ["--output-dir", "--answers"]),
        ("serving", ["--output-dir", "--model"]),
        ("speed", ["--output-dir"]),
    ],
)
def test_what_a_measurement_needs_is_named(
    command: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["eval", command])
    *_, line = capsys.readouterr().err.splitlines()
    assert line.endswith(f"the following arguments are required: {', '.join(options)}")


def test_names_of_options_take_underscores_too() -> None:
    parser = ArgumentParser()
    parser.add_argument("--output-dir")
    for argv in (["--output_dir", "a_b"], ["--output-dir", "a_b"], ["--output_dir=a_b"]):
        assert parser.parse_args(argv).output_dir == "a_b"


def test_an_unknown_mode_is_named_with_the_four_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "hello", "--mode", "hydra"])
    assert "mode='hydra' is unknown; choose one of ar, medusa, apar, medusa-apar" in capsys.readouterr().err


@pytest.mark.integration
@pytest.mark.parametrize("show", ["text", "tree"])
def test_an_interruption_prints_what_is_there(
    show: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step, calls = Engine.step, []

    def interrupt(self: Engine) -> list[Request]:
        calls.append(self)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Engine, "step", interrupt)
    with pytest.raises(SystemExit) as stop:
        main(["generate", "What causes stress?", "--model", str(TINY), "--show", show])
    shown = capsys.readouterr()
    assert stop.value.code == 130
    assert shown.out.strip(), "the partial answer stays on the screen"
    assert "interrupted" in shown.err


def test_a_tree_is_drawn_with_each_child_under_the_text_that_forked_it() -> None:
    class Letters:
        def decode(self, token_ids: list[int], **_: object) -> str:
            return "".join(chr(ord("a") + t) for t in token_ids if t > CHILD)

    tree = ParagraphTree(
        [
            Thread([9, 10, FORK, 12, EOS], 1, 1, None, 1, "eos"),
            Thread([9, 10, FORK, CHILD, 11, EOS], 1, 3, 0, 2, "eos"),
        ],
        FORK, CHILD, max_depth=2,
    )  # fmt: skip
    drawing = draw(tree, Letters())  # type: ignore[arg-type]
    assert str(drawing.label) == "root thread: 4 tokens, eos"
    before, after = drawing.children
    assert (str(before.label), str(after.label)) == ("k", "m")
    assert str(before.children[0].label) == "thread 1: 3 tokens, eos"
    assert str(before.children[0].children[0].label) == "l"


@pytest.mark.parametrize("mode", ["ar", "medusa", "apar", "medusa-apar"])
def test_generate_answers_in_every_mode(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["generate", "What causes stress?", "--model", str(TINY), "--mode", mode, "--max-new-tokens", "40"])
    shown = capsys.readouterr().out
    assert "40 tokens in" in shown


def test_a_bias_of_forks_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["generate", "What causes stress?", "--model", str(TINY), "--max-new-tokens", "40"]
    main([*asked, "--fork-bias", "-30"])
    assert " 1 threads" in capsys.readouterr().out


@pytest.mark.integration
def test_what_one_command_compiled_the_next_one_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDUSA_APAR_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "small"  # few graphs: one layer, and one head
    backbone = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(TINY, num_hidden_layers=1))
    MedusaAparModel(backbone, SequentialHeads.for_backbone(backbone, num_heads=1)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    compilations: list[Any] = []
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: compilations.append(1) or compile_(*args, **kwargs))
    answers, counts = [], []
    for _ in range(2):
        arguments = ["--model", str(folder), "--temperature", "0", "--max-new-tokens", "40", "--show", "text"]
        main(["generate", "What causes stress?", *arguments, "--weights", "int8", "--compile"])
        answers.append(capsys.readouterr().out.split(" tokens in")[0])
        counts.append(len(compilations))
    assert answers[0] == answers[1]
    assert counts[0] == counts[1] > 1


@pytest.mark.integration
def test_compare_prints_all_modes(capsys: pytest.CaptureFixture[str]) -> None:
    main(
        [
            "generate",
            "How can I sleep better?",
            "--model",
            str(TINY),
            "--show",
            "tree",
            "--compare",
            "--max-new-tokens",
            "8",
        ]
    )
    shown = capsys.readouterr().out
    assert "root thread" in shown
    for mode in ("generate", "ar", "medusa", "apar", "medusa-apar"):
        assert f" {mode} " in shown


@pytest.mark.integration
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_any_encoding_shows_the_answer(encoding: str) -> None:
    """What it cannot show is escaped: the prompt asks for characters that ASCII has not."""
    shown = subprocess.run(
        [sys.executable, "-c", PRINTS, "generate", "Was kostet ein Café in 東京?", "--show", "tree"],
        env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr.decode(encoding)
    assert "Traceback" not in shown.stderr.decode(encoding)
    text = shown.stdout.decode(encoding)
    assert ("東京" in text) == (encoding == "utf-8")
    assert ("\\u6771" in text) == (encoding != "utf-8")


PRINTS = """
import sys
from medusa_apar import cli

cli.COMMANDS["generate"] = lambda argv: print(argv[0])
cli.main(sys.argv[1:])
"""


def test_memory_that_is_not_there_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def allocate(argv: Sequence[str]) -> None:
        torch.empty(2**60)

    monkeypatch.setitem(COMMANDS, "generate", allocate)
    with pytest.raises(SystemExit) as stop:
        main(["generate", "hello"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.strip() == (
        "medusa-apar: error: out of memory; give smaller numbers, or a smaller model"
    )


def test_an_error_of_many_lines_is_told_in_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: Sequence[str]) -> None:
        raise OSError("no connection\n  to the hub")

    monkeypatch.setitem(COMMANDS, "generate", fail)
    with pytest.raises(SystemExit):
        main(["generate", "hello"])
    assert capsys.readouterr().err == "medusa-apar: error: no connection to the hub\n"
