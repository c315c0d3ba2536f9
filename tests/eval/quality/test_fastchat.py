"""FastChat itself asks the same, and reads the same from a judge's words."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from medusa_apar.eval.answers.answer_files import Answers, read_answers
from medusa_apar.eval.judge.inquiries import Assessment, assess
from medusa_apar.eval.judge.judge_prompts import JudgeMode, load_judge_prompts, load_references
from medusa_apar.eval.judge.verdicts import rating_of, verdict_of
from medusa_apar.eval.measurement.question_sets import load_questions

Messages = list[dict[str, str]]


@pytest.fixture
def fastchat(monkeypatch: pytest.MonkeyPatch) -> Any:
    """FastChat's judging, without the client libraries that it does not need here."""
    pytest.importorskip("fastchat", reason="fschat comes with medusa-llm: pip install -e '.[medusa-llm]'")
    if "anthropic" not in sys.modules:
        monkeypatch.setitem(sys.modules, "anthropic", ModuleType("anthropic"))
    from fastchat.llm_judge import common

    return common


class Bench:
    """MT-Bench, and two models' published answers to it."""

    def __init__(self, data_folder: Path) -> None:
        folder = data_folder / "mt_bench"
        self.prompts = str(data_folder / "judge_prompts.jsonl")
        self.questions = load_questions(str(folder / "question.jsonl"))
        self.references = load_references(str(folder / "reference-gpt-4.jsonl"), "mt_bench", self.questions)
        self.first = read_answers(folder / "answers-medusa-vicuna-7b-v1.3.jsonl")
        self.second = read_answers(folder / "answers-medusa-vicuna-13b-v1.3.jsonl")

    def assess(self, answers: Mapping[str, Answers], mode: JudgeMode, baseline: str | None = None) -> list[Assessment]:
        return assess(self.questions, answers, load_judge_prompts(self.prompts, mode), self.references, baseline)


@pytest.fixture
def bench(data_folder: Path) -> Bench:
    return Bench(data_folder)


@pytest.fixture
def sent(fastchat: Any, monkeypatch: pytest.MonkeyPatch) -> list[Messages]:
    """What FastChat sends to its judge, who is not asked."""
    messages: list[Messages] = []

    def ask(_: str, conversation: Any, **__: object) -> str:
        messages.append(conversation.to_openai_api_messages())
        return "[[5]]"

    monkeypatch.setattr(fastchat, "chat_completion_openai", ask)
    return messages


def fastchat_asks(
    fastchat: Any, bench: Bench, run: Callable[..., object], general: str, math: str, answers: tuple[Answers, ...]
) -> None:
    """Ask FastChat's judge about all questions, first turns and second turns, as its command does."""
    prompts = fastchat.load_judge_prompts(bench.prompts)
    for question in bench.questions:
        with_reference = question.category in fastchat.NEED_REF_CATS
        reference = row(bench.references[question.question_id]) if with_reference else None
        for multi_turn in (False, True):
            name = (math if with_reference else general) + ("-multi-turn" if multi_turn else "")
            judge = fastchat.Judge("gpt-4", prompts[name], ref_based=with_reference, multi_turn=multi_turn)
            given = [row(each[question.question_id]) for each in answers]
            run({"turns": list(question.turns)}, *given, judge, reference, multi_turn=multi_turn)


def row(turns: tuple[str, ...]) -> dict[str, Any]:
    return {"choices": [{"turns": list(turns)}]}


def test_asks_for_ratings_word_by_word(fastchat: Any, bench: Bench, sent: list[Messages]) -> None:
    fastchat_asks(fastchat, bench, fastchat.run_judge_single, "single-v1", "single-math-v1", (bench.first,))
    ratings = bench.assess({"first": bench.first}, JudgeMode.SINGLE)
    assert [inquiry.messages for rating in ratings for inquiry in rating.inquiries] == sent
    assert len(sent) == 160


def test_compares_word_by_word(fastchat: Any, bench: Bench, sent: list[Messages]) -> None:
    for answers in ((bench.first, bench.second), (bench.second, bench.first)):
        fastchat_asks(fastchat, bench, fastchat.run_judge_pair, "pair-v2", "pair-math-v1", answers)
    orders = list(zip(sent[:160], sent[160:], strict=True))
    comparisons = bench.assess({"first": bench.first, "second": bench.second}, JudgeMode.PAIRWISE, "second")
    asked = [tuple(inquiry.messages for inquiry in each.inquiries) for each in comparisons]
    same = [each for each in comparisons if not each.inquiries]
    assert [own for own in asked if own] == [theirs for own, theirs in zip(asked, orders, strict=True) if own]
    assert len(same) == 3


@pytest.mark.parametrize("text", ["[[7]]", "Rating: [[7.5]]", "[8]", "[1] and [[6]]", "none", "[[8", "[[3]] or [[4]]"])
def test_reads_the_same_rating(fastchat: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template = {
        "name": "n",
        "system_prompt": "",
        "prompt_template": "{question}{answer}",
        "output_format": "[[rating]]",
    }
    monkeypatch.setattr(fastchat, "chat_completion_openai", lambda *_, **__: text)
    question, answer = {"turns": ["q"]}, row(("a",))
    rating, _, _ = fastchat.run_judge_single(question, answer, fastchat.Judge("gpt-4", template), None)
    assert (rating_of(text) or -1) == rating


@pytest.mark.parametrize("text", ["[[A]]", "[[B]]", "[[C]]", "[[C]] or [[B]]", "[[B]] or [[A]]", "[A]", ""])
def test_reads_the_same_verdict(fastchat: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template = {"name": "n", "system_prompt": "", "prompt_template": "{question}", "output_format": "[[A]]"}
    monkeypatch.setattr(fastchat, "chat_completion_openai", lambda *_, **__: text)
    winner, _, _ = fastchat.run_judge_pair(
        {"turns": ["q"]}, row(("a",)), row(("b",)), fastchat.Judge("gpt-4", template), None
    )
    names = {"A": "A", "B": "B", "C": "tie", None: "error"}
    assert names[verdict_of(text)] == winner
