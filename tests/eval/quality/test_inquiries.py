"""What the judge is asked: the right prompt for category and turn, with the right answers in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medusa_apar.eval.answers.answer_files import Answers
from medusa_apar.eval.judge.inquiries import Assessment, Inquiry, assess
from medusa_apar.eval.judge.judge_prompts import JudgeMode, load_judge_prompts, load_references
from medusa_apar.eval.measurement import question_sets as published
from medusa_apar.eval.measurement.question_sets import DATA_VARIABLE, Question

from .judge_server import PROMPTS

QUESTIONS = [Question(1, "stem", ("Q1", "Q2")), Question(2, "math", ("Q3", "Q4")), Question(3, "coding", ("Q5",))]
ANSWERS = {1: ("a1", "a2"), 2: ("a3", "a4"), 3: ("a5",)}
GENERATE = {1: ("b1", "b2"), 2: ("b3", "b4"), 3: ("b5",)}
REFERENCES = {2: ("r3", "r4"), 3: ("r5",)}
PromptFile = Callable[..., Path]
WriteAnswers = Callable[..., Path]


def ratings_of(prompt_file: PromptFile, answers: Answers) -> list[Assessment]:
    prompts = load_judge_prompts(str(prompt_file()), JudgeMode.SINGLE)
    return assess(QUESTIONS, {"apar": answers}, prompts, REFERENCES)


def comparisons_of(prompt_file: PromptFile, answers: Answers) -> list[Assessment]:
    prompts = load_judge_prompts(str(prompt_file()), JudgeMode.PAIRWISE)
    return assess(QUESTIONS, {"apar": answers, "ar": GENERATE}, prompts, REFERENCES, "ar")


def asked(inquiries: list[Inquiry]) -> list[tuple[int | str, int, str, str]]:
    return [(inquiry.question_id, inquiry.turn, inquiry.prompt, inquiry.user) for inquiry in inquiries]


def test_rates_each_turn_with_the_prompt_of_its_category(prompt_file: PromptFile) -> None:
    ratings = ratings_of(prompt_file, ANSWERS)
    assert asked([inquiry for rating in ratings for inquiry in rating.inquiries]) == [
        (1, 1, "single-v1", "one|Q1|a1"),
        (1, 2, "single-v1-multi-turn", "two|Q1|a1|Q2|a2"),
        (2, 1, "single-math-v1", "one-math|Q3|r3|a3"),
        (2, 2, "single-math-v1-multi-turn", "two-math|Q3|r3|Q4|r4|Q3|a3|Q4|a4"),
        (3, 1, "single-math-v1", "one-math|Q5|r5|a5"),
    ]
    assert ratings[0].inquiries[0].messages == [
        {"role": "system", "content": "system of single-v1"},
        {"role": "user", "content": "one|Q1|a1"},
    ]


def test_compares_in_both_orders(prompt_file: PromptFile) -> None:
    comparisons = comparisons_of(prompt_file, ANSWERS)
    assert asked([inquiry for each in comparisons for inquiry in each.inquiries]) == [
        (1, 1, "pair-v2", "pair|Q1|A=a1|B=b1"),
        (1, 1, "pair-v2", "pair|Q1|A=b1|B=a1"),
        (1, 2, "pair-v2-multi-turn", "pair-two|Q1|Q2|A=a1,a2|B=b1,b2"),
        (1, 2, "pair-v2-multi-turn", "pair-two|Q1|Q2|A=b1,b2|B=a1,a2"),
        (2, 1, "pair-math-v1", "pair-math|Q3|r3|A=a3|B=b3"),
        (2, 1, "pair-math-v1", "pair-math|Q3|r3|A=b3|B=a3"),
        (2, 2, "pair-math-v1-multi-turn", "pair-two-math|Q3|Q4|r3|r4|A=a3,a4|B=b3,b4"),
        (2, 2, "pair-math-v1-multi-turn", "pair-two-math|Q3|Q4|r3|r4|A=b3,b4|B=a3,a4"),
        (3, 1, "pair-math-v1", "pair-math|Q5|r5|A=a5|B=b5"),
        (3, 1, "pair-math-v1", "pair-math|Q5|r5|A=b5|B=a5"),
    ]


def test_same_answers_are_not_compared_until_they_differ(prompt_file: PromptFile) -> None:
    comparisons = comparisons_of(prompt_file, {**ANSWERS, 1: ("b1", "a2")})
    assert [len(each.inquiries) for each in comparisons] == [0, 2, 2, 2, 2]


def test_braces_in_answers_are_left_alone(prompt_file: PromptFile) -> None:
    answers = {**ANSWERS, 1: ("{question} {}", "a2")}
    first = ratings_of(prompt_file, answers)[0]
    assert first.inquiries[0].user == "one|Q1|{question} {}"


def test_more_than_two_turns_are_judged_by_their_first_as_in_fastchat(prompt_file: PromptFile) -> None:
    prompts = load_judge_prompts(str(prompt_file()), JudgeMode.SINGLE)
    ratings = assess([Question(1, "stem", ("Q1", "Q2", "Q3"))], {"ar": {1: ("a", "b", "c")}}, prompts, {})
    assert [rating.turn for rating in ratings] == [1]


@pytest.mark.parametrize("mode", JudgeMode)
def test_takes_the_official_prompts_from_the_data_folder(
    mode: JudgeMode, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(data_folder))
    prompts = load_judge_prompts(None, mode)
    assert len(prompts) == 4
    questions = [question for question in QUESTIONS if question.category == "stem"]
    rating = assess(questions, {"ar": ANSWERS}, load_judge_prompts(None, JudgeMode.SINGLE), {})[0]
    user = rating.inquiries[0].user
    assert user.startswith("[Instruction]\nPlease act as an impartial judge")
    assert user.endswith("[Question]\nQ1\n\n[The Start of Assistant's Answer]\na1\n[The End of Assistant's Answer]")


def test_fetches_prompts_and_references_from_the_hub(
    prompt_file: PromptFile, write_answers: WriteAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {
        "data/judge_prompts.jsonl": prompt_file(),
        "data/mt_bench/reference_answer/gpt-4.jsonl": write_answers("gpt-4", REFERENCES),
    }
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setattr(published, "hf_hub_download", lambda repo, path, *, repo_type: str(paths[path]))
    assert load_judge_prompts(None, JudgeMode.SINGLE)["single-v1"].template == PROMPTS["single-v1"]
    assert load_references(None, "mt_bench", QUESTIONS) == REFERENCES


def test_says_what_to_do_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: str, **__: str) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    monkeypatch.setattr(published, "hf_hub_download", download)
    with pytest.raises(OSError, match=r"no route to host.*\$MEDUSA_APAR_DATA/judge_prompts.jsonl.*--judge-prompts"):
        load_judge_prompts(None, JudgeMode.SINGLE)


def test_needs_no_references_without_such_categories() -> None:
    assert load_references(None, "mine.jsonl", QUESTIONS[:1]) == {}


def test_asks_for_references(write_answers: WriteAnswers) -> None:
    with pytest.raises(ValueError, match=r"math, reasoning, coding.* beside reference answers; .*--references FILE"):
        load_references(None, "mine.jsonl", QUESTIONS)
    with pytest.raises(ValueError, match="--references='none' is no file"):
        load_references("none", "mine.jsonl", QUESTIONS)
    path = write_answers("references", {2: ("r3",)})
    with pytest.raises(ValueError, match="no reference answer to turn 2 of question 2 of category 'math'"):
        load_references(str(path), "mine.jsonl", QUESTIONS)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"single-math-v1": "x"}, "the template of 'single-math-v1' has the fields none, expected answer, question"),
        ({"single-v1": "{question} {answer} {0}"}, "the template of 'single-v1' has the fields 0, answer, question"),
        ({"single-v1": "{question"}, "the template of 'single-v1' is broken"),
    ],
)
def test_refuses_other_prompts(prompt_file: PromptFile, changed: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_judge_prompts(str(prompt_file({**PROMPTS, **changed})), JudgeMode.SINGLE)


def test_names_a_missing_prompt(prompt_file: PromptFile) -> None:
    path = prompt_file({name: template for name, template in PROMPTS.items() if name != "pair-math-v1"})
    assert len(load_judge_prompts(str(path), JudgeMode.SINGLE)) == 4
    with pytest.raises(ValueError, match=r"lacks the prompt 'pair-math-v1', .*; take FastChat's judge_prompts"):
        load_judge_prompts(str(path), JudgeMode.PAIRWISE)
