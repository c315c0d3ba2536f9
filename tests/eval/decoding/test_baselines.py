"""transformers' own ways to decode beside the modes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from medusa_apar.eval.decoding.baselines import Baseline, BaselineOptions, answer_lengths, load_assistant
from medusa_apar.eval.decoding.decode import Limits, decode
from medusa_apar.eval.speed import command as speed

from ..scripted_model import ALL_MODES, ScriptedModel

LIMITS = Limits(max_new_tokens=24)
QUESTION = '{"question_id": 1, "category": "math", "turns": ["One?"]}'
Command = Callable[..., int]


@pytest.fixture
def prompt(tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """A prompt that repeats itself, so that prompt lookup finds something."""
    ids: torch.Tensor = tokenizer("abcabcabcabc", return_tensors="pt")["input_ids"]
    return ids


def forced_to_repeat(model: ScriptedModel) -> None:
    """Let the backbone say its last token once more, whatever came before."""
    with torch.no_grad():
        torch.nn.init.normal_(model.backbone.model.embed_tokens.weight)
        model.backbone.lm_head.weight.copy_(model.backbone.model.embed_tokens.weight)
        for layer in model.backbone.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()


@pytest.mark.parametrize("baseline", [Baseline.PROMPT_LOOKUP, Baseline.ASSISTED])
def test_draft_tokens_cost_fewer_steps_and_change_nothing(
    model: ScriptedModel, prompt: torch.Tensor, baseline: Baseline
) -> None:
    forced_to_repeat(model)
    options = BaselineOptions(assistant=LlamaForCausalLM(model.backbone.config).eval())
    options.assistant.load_state_dict(model.backbone.state_dict())
    plain = decode(model, Baseline.GENERATE, prompt, LIMITS)
    drafted = decode(model, baseline, prompt, LIMITS, baselines=options)
    assert drafted.token_ids == plain.token_ids
    assert drafted.stats.answer_tokens == plain.stats.answer_tokens == 24
    assert plain.stats.steps == 23
    assert drafted.stats.steps < 23


@pytest.mark.parametrize("baseline", list(Baseline))
def test_counts_the_backbones_passes_without_the_prompts(
    model: ScriptedModel, prompt: torch.Tensor, baseline: Baseline, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = 0
    forward = model.backbone.model.forward

    def counting(*arguments, **named):
        nonlocal passes
        passes += 1
        return forward(*arguments, **named)

    monkeypatch.setattr(model.backbone.model, "forward", counting)
    options = BaselineOptions(assistant=LlamaForCausalLM(model.backbone.config).eval())
    assert decode(model, baseline, prompt, LIMITS, baselines=options).stats.steps == passes - 1


@pytest.mark.parametrize("baseline", list(Baseline))
def test_no_baseline_writes_control_tokens(model: ScriptedModel, prompt: torch.Tensor, baseline: Baseline) -> None:
    forced_to_repeat(model)
    assert model.control is not None
    head = model.backbone.lm_head.weight
    with torch.no_grad():
        head[model.control.fork_token_id] = 2 * head[prompt[0, -1]]
        head[model.control.child_token_id] = 3 * head[prompt[0, -1]]
    assert model.backbone(prompt).logits[0, -1].argmax() == model.control.child_token_id
    draft = LlamaForCausalLM(model.backbone.config).eval()
    draft.load_state_dict(model.backbone.state_dict())
    answer = decode(model, baseline, prompt, LIMITS, baselines=BaselineOptions(assistant=draft))
    assert {model.control.fork_token_id, model.control.child_token_id}.isdisjoint(answer.token_ids)


@pytest.mark.parametrize("rows", [1, 2])
def test_the_first_token_comes_before_the_others(model: ScriptedModel, prompt: torch.Tensor, rows: int) -> None:
    many = decode(model, Baseline.GENERATE, prompt.repeat(rows, 1), LIMITS)
    assert 0 < many.stats.first_token_seconds < many.seconds
    one = decode(model, Baseline.GENERATE, prompt.repeat(rows, 1), Limits(max_new_tokens=1))
    assert one.stats.first_token_seconds == one.seconds


def test_a_batch_of_generate_counts_every_row_to_its_end(model: ScriptedModel) -> None:
    end, pad = model.tokenizer.eos_token_id, model.tokenizer.pad_token_id
    answers = torch.tensor([[9, end, pad, pad], [9, 9, 9, 9], [9, 9, 9, end], [end, end, end, end]])
    assert answer_lengths(answers, model) == [2, 4, 4, 1]  # type: ignore[arg-type]
    prompts = torch.tensor([[pad, 7, 8], [7, 8, 9]])
    mask = (prompts != pad).long()
    answer = decode(model, Baseline.GENERATE, prompts, LIMITS, attention_mask=mask)  # type: ignore[arg-type]
    assert answer.stats.peak_slots == 2 * (3 + answer.stats.steps)
    assert answer.stats.ar_slots == 5 + answer.stats.answer_tokens - 2


def test_refuses_a_draft_model_of_another_vocabulary(
    model: ScriptedModel, backbone: PreTrainedModel, tmp_path: Path
) -> None:
    backbone.save_pretrained(tmp_path / "draft")
    with pytest.raises(ValueError, match=r"assistant=.*a vocabulary of 64 tokens, the model one of 262; give a draft"):
        load_assistant(str(tmp_path / "draft"), model)  # type: ignore[arg-type]


@pytest.fixture
def command(model: ScriptedModel, eval_command: Callable[..., Command]) -> Command:
    """Runs `eval speed` on one question."""
    return eval_command("speed", speed, model, [QUESTION], "--max-new-tokens", "20")


def test_baselines_stand_beside_the_modes(command: Command, model: ScriptedModel, tmp_path: Path) -> None:
    model.backbone.save_pretrained(tmp_path / "draft")
    assert command("--baselines", "--assistant", str(tmp_path / "draft")) == 0
    lines = (tmp_path / "out" / "turns.jsonl").read_text().splitlines()
    expected = ["generate", "prompt-lookup", "assisted", *ALL_MODES[1:]]
    assert [json.loads(line)["mode"] for line in lines] == expected
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(summary["settings"]["assistant_weights"]) == 16
    overall = {row["mode"]: row for row in summary["tables"]["Speed"] if row["category"] == "overall"}
    assert overall["generate"]["slots/ar"] == 1
    assert overall["prompt-lookup"]["slots/ar"] is None
    assert overall["prompt-lookup"]["tokens/step"] > 0
    line = next(line for line in (tmp_path / "out" / "summary.md").read_text().splitlines() if "| assisted" in line)
    assert line.split("|")[8].strip() == "-"
    assert (tmp_path / "out" / "speedup.png").stat().st_size > 1000


def test_prompt_lookup_needs_no_draft_model(command: Command, tmp_path: Path) -> None:
    assert command("--baselines", "--modes", "ar") == 0
    lines = (tmp_path / "out" / "turns.jsonl").read_text().splitlines()
    assert [json.loads(line)["mode"] for line in lines] == ["generate", "prompt-lookup", "ar"]


def test_an_assistant_adds_assisted_decoding(command: Command, model: ScriptedModel, tmp_path: Path) -> None:
    model.backbone.save_pretrained(tmp_path / "draft")
    assert command("--assistant", str(tmp_path / "draft"), "--modes", "ar") == 0
    lines = (tmp_path / "out" / "turns.jsonl").read_text().splitlines()
    assert [json.loads(line)["mode"] for line in lines] == ["generate", "assisted", "ar"]


def test_assisted_decoding_asks_for_its_draft_model(model: ScriptedModel, prompt: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="mode='assisted' needs a draft model; name one with --assistant"):
        decode(model, Baseline.ASSISTED, prompt, LIMITS)  # type: ignore[arg-type]
