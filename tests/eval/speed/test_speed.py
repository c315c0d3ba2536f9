"""`medusa-apar eval speed`, run with a scripted model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from medusa_apar.eval.decoding.decode import GENERATE, Limits, decode
from medusa_apar.eval.speed import command as speed

from ..scripted_model import ALL_MODES, CONTEXT, ScriptedModel

QUESTIONS = (
    '{"question_id": 1, "category": "math", "turns": ["One?", "Two?"]}',
    '{"question_id": 2, "category": "stem", "turns": ["Three?"]}',
)
Command = Callable[..., int]


@pytest.fixture
def command(model: ScriptedModel, eval_command: Callable[..., Command]) -> Command:
    """Runs the command on two questions, three turns in all."""
    return eval_command("speed", speed, model, QUESTIONS, "--max-new-tokens", "20")


def turns(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "out" / "turns.jsonl").read_text().splitlines()]


def test_records_every_turn_in_every_mode_in_rotating_order(command: Command, tmp_path: Path) -> None:
    assert command() == 0
    expected = [
        (question, turn, mode)
        for question, turn, order in [(1, 1, ALL_MODES), (1, 2, ALL_MODES), (2, 1, (*ALL_MODES[1:], ALL_MODES[0]))]
        for mode in order
    ]
    assert [(turn["question_id"], turn["turn"], turn["mode"]) for turn in turns(tmp_path)] == expected


def test_a_second_turn_follows_the_modes_own_answer(command: Command, model: ScriptedModel) -> None:
    command("--modes", "ar,apar", "--no-generate", "--warmup", "0")
    assert model.prompts == [
        ("ar", "<|user|>One?<|assistant|>"),
        ("apar", "<|user|>One?<|assistant|>"),
        ("ar", "<|user|>One?<|assistant|>ar 1<|user|>Two?<|assistant|>"),
        ("apar", "<|user|>One?<|assistant|>apar 2<|user|>Two?<|assistant|>"),
        ("apar", "<|user|>Three?<|assistant|>"),
        ("ar", "<|user|>Three?<|assistant|>"),
    ]


def test_hands_the_limits_to_the_model(command: Command, model: ScriptedModel) -> None:
    limits = ["--max-threads", "3", "--max-depth", "4", "--fork-bias", "-0.5"]
    command("--modes", "medusa-apar", *limits, "--warmup", "0", "--limit", "1")
    assert len(model.requests) == 2
    for request in model.requests:
        assert request.pop("attention_mask").all()
        assert request == {
            "max_new_tokens": 20, "do_sample": False, "return_dict_in_generate": True, "medusa": True, "apar": True,
            "max_threads": 3, "max_depth": 4, "fork_bias": -0.5, "medusa_choices": None, "seed": 0,
        }  # fmt: skip


@pytest.mark.parametrize(("asked", "bias"), [([], 1.25), (["--fork-bias", "0"], 0.0)])
def test_the_bias_of_forks_is_a_setting(
    command: Command, model: ScriptedModel, tmp_path: Path, asked: list[str], bias: float
) -> None:
    assert model.control is not None
    model.control = replace(model.control, fork_bias=1.25)
    command("--modes", "apar", "--no-generate", *asked, "--warmup", "0", "--limit", "1")
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["fork_bias"] == bias


def test_samples_as_the_model_would_where_asked(command: Command, model: ScriptedModel, tmp_path: Path) -> None:
    model.backbone.generation_config.update(do_sample=True, temperature=0.2)
    command("--modes", "ar", "--no-generate", "--sample", "--warmup", "0", "--limit", "1")
    assert all("do_sample" not in request for request in model.requests)
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["sample"]


@pytest.mark.parametrize("sample", [False, True])
def test_the_baseline_samples_where_asked(model: ScriptedModel, sample: bool) -> None:
    model.backbone.generation_config.update(do_sample=True, temperature=5.0, top_k=0)
    prompt, limits = torch.tensor([[7, 8, 9]]), Limits(max_new_tokens=16, sample=sample)
    sampled = decode(model, GENERATE, prompt, limits).token_ids  # type: ignore[arg-type]
    assert sampled == decode(model, GENERATE, prompt, limits).token_ids, "the seed is fixed"  # type: ignore[arg-type]
    greedy = decode(model, GENERATE, prompt, Limits(max_new_tokens=16)).token_ids  # type: ignore[arg-type]
    assert (sampled != greedy) == sample


@pytest.mark.parametrize("flags", [(), ("--compile",)])
def test_compiles_the_model_where_asked(command: Command, tmp_path: Path, flags: tuple[str, ...]) -> None:
    command("--modes", "ar", "--no-generate", "--limit", "1", *flags)
    assert f"- compiled: {bool(flags)}" in (tmp_path / "out" / "summary.md").read_text()


def test_warm_up_is_not_recorded(command: Command, model: ScriptedModel, tmp_path: Path) -> None:
    command("--modes", "ar", "--no-generate", "--warmup", "2")
    assert len(model.prompts) == 5
    assert len(turns(tmp_path)) == 3


def test_goes_on_after_an_interruption(
    command: Command, model: ScriptedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--modes", "ar,medusa", "--no-generate", "--warmup", "0")
    model.fail_at = 4
    assert command(*arguments) == 130
    assert "interrupted; 3 turns are kept" in capsys.readouterr().err
    before = turns(tmp_path)
    with (tmp_path / "out" / "turns.jsonl").open("a") as file:
        file.write('{"question_id": 1, "cat')
    model.fail_at = None
    model.prompts.clear()
    assert command(*arguments) == 0
    assert turns(tmp_path)[:3] == before
    assert len(turns(tmp_path)) == 6
    assert model.prompts[0] == ("medusa", "<|user|>One?<|assistant|>medusa 2<|user|>Two?<|assistant|>")
    model.prompts.clear()
    assert command(*arguments) == 0
    assert model.prompts == []


def test_refuses_a_folder_of_another_run(
    command: Command, model: ScriptedModel, refusal: Callable[..., str], tmp_path: Path
) -> None:
    command("--modes", "ar")
    before = turns(tmp_path)
    assert "max_new_tokens was 20, is 30" in refusal(command, "--modes", "ar", "--max-new-tokens", "30")
    with torch.no_grad():
        model.backbone.model.norm.weight[0] = 3
    assert "weights was" in refusal(command, "--modes", "ar")
    assert turns(tmp_path) == before


def test_records_a_prompt_that_is_too_long_as_skipped(
    command: Command, question_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    role_tokens = 2
    fits = "x" * (CONTEXT - 20 - role_tokens)
    question_file(
        json.dumps({"question_id": 1, "category": "math", "turns": [fits + "x", "Then?"]}),
        json.dumps({"question_id": 2, "category": "math", "turns": [fits, "Then?"]}),
    )
    assert command("--modes", "ar", "--no-generate") == 0
    reasons = {(turn["question_id"], turn["turn"]): turn["skipped"] for turn in turns(tmp_path)}
    assert "the prompt has 237 tokens, more than the 236" in reasons[1, 1]
    assert reasons[1, 2] == "turn 1 was skipped"
    assert reasons[2, 1] is None
    assert "the prompt has" in reasons[2, 2]
    assert "3 turns were skipped" in capsys.readouterr().out
    overall = json.loads((tmp_path / "out" / "summary.json").read_text())["tables"]["Speed"][-1]
    assert overall["turns"] == [1, 3]


def test_writes_summary_plot_and_answers(command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command()
    out = tmp_path / "out"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["settings"]["max_new_tokens"] == 20
    assert [(row["category"], row["mode"]) for row in summary["tables"]["Speed"]] == [
        (category, mode) for category in ("math", "stem", "overall") for mode in ALL_MODES
    ]
    assert "| medusa-apar |" in (out / "summary.md").read_text()
    assert (out / "speedup.png").stat().st_size > 1000
    assert "medusa-apar" in capsys.readouterr().out
    answers = [json.loads(line) for line in (out / "answers" / "apar.jsonl").read_text().splitlines()]
    assert [answer["question_id"] for answer in answers] == [1, 2]
    assert answers[0].keys() == {"question_id", "answer_id", "model_id", "choices", "tstamp"}
    assert answers[0]["model_id"] == "default-apar"
    recorded = [turn["answer"] for turn in turns(tmp_path) if (turn["question_id"], turn["mode"]) == (1, "apar")]
    assert answers[0]["choices"] == [{"index": 0, "turns": recorded}]
    assert recorded[0].startswith("apar ")


def test_modes_with_threads_have_a_second_table(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command()
    out = tmp_path / "out"
    threads = json.loads((out / "summary.json").read_text())["tables"]["Threads"]
    assert [(row["mode"], row["turns"]) for row in threads] == [("apar", 3), ("medusa-apar", 3)]
    assert all(row["peak"] == 1 for row in threads)
    first, second = (out / "summary.md").read_text().split("## Threads")
    assert [text.count("| apar ") for text in (first, second)] == [3, 1]
    assert "- max_new_tokens: 20" in second
    printed = " ".join(capsys.readouterr().out.split())
    assert "[Child] beside its fork" in printed


def test_without_threads_there_is_one_table(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command("--modes", "ar,medusa")
    assert list(json.loads((tmp_path / "out" / "summary.json").read_text())["tables"]) == ["Speed"]
    assert "Threads" not in (tmp_path / "out" / "summary.md").read_text()
    assert "[Child] beside its fork" not in capsys.readouterr().out


def test_the_baseline_never_writes_control_tokens(model: ScriptedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = tokenizer("Why?", return_tensors="pt")["input_ids"]
    assert model.control is not None
    first = decode(model, GENERATE, prompt, Limits(max_new_tokens=1)).token_ids[0]  # type: ignore[arg-type]
    head = model.backbone.lm_head.weight
    with torch.no_grad():
        head[model.control.fork_token_id] = 2 * head[first]
        head[model.control.child_token_id] = 2 * head[first]
    favoured = model.backbone(prompt).logits[0, -1].argmax().item()
    assert favoured in (model.control.fork_token_id, model.control.child_token_id)
    answer = decode(model, GENERATE, prompt, Limits(max_new_tokens=12))  # type: ignore[arg-type]
    assert {model.control.fork_token_id, model.control.child_token_id}.isdisjoint(answer.token_ids)
    assert answer.stats.answer_tokens == len(answer.token_ids) == answer.stats.steps + 1
    assert answer.stats.peak_slots == prompt.shape[1] + len(answer.token_ids) - 1
    assert answer.seconds > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--modes", "ar,fast"), "mode='fast' is unknown; choose one of ar, medusa, apar, medusa-apar"),
        (("--max-new-tokens", "0"), "0 is less than 1"),
        (("--max-new-tokens", str(CONTEXT)), "lower --max-new-tokens"),
        (("--warmup", "-1"), "-1 is less than 0"),
        (("--questions", "none"), "questions='none' is neither a file nor a known set"),
    ],
)
def test_says_what_is_wrong_with_an_argument(
    command: Command, arguments: tuple[str, ...], message: str, refusal: Callable[..., str], tmp_path: Path
) -> None:
    assert message in refusal(command, *arguments)
    assert not (tmp_path / "out").exists()


def test_asks_for_what_a_mode_needs(command: Command, model: ScriptedModel, refusal: Callable[..., str]) -> None:
    model.heads = None
    assert "needs Medusa heads" in refusal(command, "--modes", "ar,medusa")
    model.control = None
    assert "needs control tokens" in refusal(command, "--modes", "apar")
    assert command("--modes", "ar", "--limit", "1") == 0


def test_asks_for_a_chat_template(
    command: Command,
    tokenizer: PreTrainedTokenizerFast,
    refusal: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", None)
    assert "has no chat template" in refusal(command)
