"""What is told of answers without a judge, against figures computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from medusa_apar.eval.measurement.question_sets import Question
from medusa_apar.eval.quality.measure_summary import summarize
from medusa_apar.eval.quality.measures import (
    AnsweredTurn,
    Measured,
    MeasuredStore,
    Measurement,
    answered_turns,
    nats_of,
)
from medusa_apar.tree.control_tokens import FORK

from ..rows import row_of
from ..scripted_model import CONTEXT, ScriptedModel

QUESTIONS = [Question(1, "math", ("One?", "Two?")), Question(2, "stem", ("Three?",))]
ANSWERS = {"ar": {1: ("a", "b"), 2: ("c",)}, "apar": {1: ("a", "d"), 2: ("",)}}


def turn_of(answer: str, category: str = "math", mode: str = "ar", question_id: int = 1) -> AnsweredTurn:
    return AnsweredTurn(
        Question(question_id, category, ("Why?",)), 1, mode, ({"role": "user", "content": "Why?"},), answer
    )


@torch.no_grad()
def by_hand(model: ScriptedModel, prompt: list[int], answer: list[int], excluded: list[int]) -> float:
    """Minus the log-likelihood, token by token, each behind a pass of its own."""
    total = 0.0
    for place, token in enumerate(answer):
        logits = model.backbone(torch.tensor([prompt + answer[:place]])).logits[0, -1].double()
        weights = [0.0 if other in excluded else weight for other, weight in enumerate(logits.exp().tolist())]
        total -= float(torch.tensor(weights[token] / sum(weights), dtype=torch.float64).log())
    return total


@pytest.mark.parametrize("with_control", [True, False])
def test_likelihood_is_that_of_plain_decoding(
    model: ScriptedModel, tokenizer: PreTrainedTokenizerFast, with_control: bool
) -> None:
    excluded = [tokenizer.convert_tokens_to_ids(token) for token in (FORK, "[Child]")]
    if not with_control:
        model.control, excluded = None, []
    with torch.no_grad():
        model.backbone.lm_head.weight[tokenizer.convert_tokens_to_ids(FORK)] *= 50  # would take much of the softmax
        model.backbone.lm_head.weight *= 20
    prompt, answer = tokenizer("Why?")["input_ids"], tokenizer("So it is.")["input_ids"]
    expected = by_hand(model, prompt, answer, excluded)
    assert nats_of(model, torch.tensor([prompt]), answer) == pytest.approx(expected, rel=1e-4)  # type: ignore[arg-type]


def test_an_answer_stands_behind_the_chat_prompt(model: ScriptedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    turn = replace(turn_of("ababababab"), messages=(
        {"role": "user", "content": "One?"}, {"role": "assistant", "content": "1"}, {"role": "user", "content": "Two?"},
    ))  # fmt: skip
    found = Measurement(model, tokenizer).measure(turn)  # type: ignore[arg-type]
    prompt = tokenizer("<|user|>One?<|assistant|>1<|user|>Two?<|assistant|>")["input_ids"]
    answer = tokenizer("ababababab")["input_ids"]
    assert model.control is not None
    control = [model.control.fork_token_id, model.control.child_token_id]
    assert found.tokens == 10
    assert found.nats == pytest.approx(by_hand(model, prompt, answer, control), rel=1e-4)
    assert found.distinct_4grams == 2 / 7


def test_the_names_of_control_tokens_are_text(model: ScriptedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    found = Measurement(model, tokenizer).measure(turn_of(f"Write {FORK}."))  # type: ignore[arg-type]
    assert found.tokens == len(f"Write {FORK}.")
    assert found.nats is not None
    assert found.nats < float("inf")


def test_a_conversation_beyond_the_context_has_no_likelihood(
    model: ScriptedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompt_tokens = len("Why?") + 2
    measurement = Measurement(model, tokenizer)  # type: ignore[arg-type]
    assert measurement.measure(turn_of("x" * (CONTEXT - prompt_tokens))).nats is not None
    beyond = measurement.measure(turn_of("x" * (CONTEXT - prompt_tokens + 1)))
    assert (beyond.nats, beyond.tokens) == (None, CONTEXT - prompt_tokens + 1)


def test_a_turn_follows_the_modes_own_answers() -> None:
    turns = [(turn.mode, turn.question.question_id, turn.turn, turn.messages[1:], turn.answer)
             for turn in answered_turns(QUESTIONS, ANSWERS)]  # fmt: skip
    behind = ({"role": "assistant", "content": "a"}, {"role": "user", "content": "Two?"})
    assert turns == [
        ("ar", 1, 1, (), "a"),
        ("ar", 1, 2, behind, "b"),
        ("ar", 2, 1, (), "c"),
        ("apar", 1, 1, (), "a"),
        ("apar", 1, 2, behind, "d"),
        ("apar", 2, 1, (), ""),
    ]


def test_the_same_conversation_is_measured_once_and_kept(
    model: ScriptedModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = list(answered_turns(QUESTIONS, ANSWERS))
    measurement = Measurement(model, tokenizer)  # type: ignore[arg-type]
    passes: list[None] = []
    forward = LlamaForCausalLM.forward
    counted: Callable[..., object] = lambda *given, **named: (passes.append(None), forward(*given, **named))[1]  # noqa: E731
    monkeypatch.setattr(LlamaForCausalLM, "forward", counted)
    for _ in range(2):
        with MeasuredStore(tmp_path, {"weights": "w"}) as store:
            measurement.run(turns, store)
            assert len(store.records) == 4
    assert len(passes) == 4


def test_figures_per_category_and_mode() -> None:
    broken, loop, empty = "1. a\n3. b", "As follows:", ""
    turns = [
        turn_of(broken),
        turn_of(loop),
        turn_of(empty, "stem"),
        turn_of("Fine.", "stem", question_id=2),
    ]
    figures = {turns[0].digest: (6, 3.0, 1.0), turns[1].digest: (4, 7.0, 0.5), turns[3].digest: (2, None, 1.0)}
    measured = {
        digest: Measured(digest=digest, tokens=tokens, nats=nats, distinct_4grams=share)
        for digest, (tokens, nats, share) in figures.items()
    }
    section = summarize(turns, measured)
    assert [(row["category"], row["mode"]) for row in section.rows] == [
        ("math", "ar"), ("stem", "ar"), ("overall", "ar"),
    ]  # fmt: skip
    assert row_of(section, "math", "ar") == {
        "category": "math", "mode": "ar", "answers": (2, 0), "too long": 0, "tokens": 5, "nats/token": 1.0,
        "4-grams": 0.75, "loops": 0.5, "empty": 0, "open": 0.5, "numbers": 0.5, "broken": 1,
    }  # fmt: skip
    assert row_of(section, "stem", "ar") == {
        "category": "stem", "mode": "ar", "answers": (1, 1), "too long": 1, "tokens": 2, "nats/token": None,
        "4-grams": 1, "loops": 0, "empty": 0, "open": 0, "numbers": 0, "broken": 0,
    }  # fmt: skip
    assert row_of(section, "overall", "ar")["nats/token"] == 1.0
    assert row_of(section, "overall", "ar")["broken"] == pytest.approx(2 / 3)


def test_a_category_of_empty_answers_has_no_figures() -> None:
    row = row_of(summarize([turn_of("")], {}), "math", "ar")
    assert [row[name] for name in ("answers", "tokens", "nats/token", "broken")] == [(0, 1), None, None, None]
