"""`medusa-apar eval quality`, with a scripted model and a judge on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medusa_apar.eval.cli import main
from medusa_apar.eval.judge.endpoint import Endpoint
from medusa_apar.eval.quality import command as quality
from medusa_apar.eval.quality.measures import Measurement

from ...fixtures import TINY
from ..scripted_model import ScriptedModel
from .judge_server import Asked, Judge, Reply

QUESTIONS = (
    '{"question_id": 1, "category": "stem", "turns": ["Q1", "Q2"]}',
    '{"question_id": 2, "category": "math", "turns": ["Q3", "Q4"]}',
)
AR = {1: ("There are two:\n1. a\n2. b", "So."), 2: ("4", "5")}
APAR = {1: ("There are two:\n1. a\n3. b", "So:"), 2: ("4", "6")}
Command = Callable[..., int]
WriteAnswers = Callable[..., Path]


@pytest.fixture
def command(model: ScriptedModel, write_answers: WriteAnswers, eval_command: Callable[..., Command]) -> Command:
    """Runs the command on the answers of two modes to two questions, four turns each."""
    folder = write_answers("ar", AR).parent
    write_answers("apar", APAR)
    return eval_command("quality", quality, model, QUESTIONS, "--answers", str(folder))


@pytest.fixture
def judged(command: Command, judge: Judge, prompt_file: Callable[..., Path], write_answers: WriteAnswers) -> Command:
    """Runs the command with a judge."""
    references = write_answers("references", {2: ("r3", "r4")}, folder="references")
    options = ("--judge-model", "wise", "--judge-prompts", str(prompt_file()), "--references", str(references),
               "--judge-retries", "0")  # fmt: skip
    return lambda *arguments: command("--judge-url", judge.url, *options, *arguments)


def summary(tmp_path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((tmp_path / "out" / "summary.json").read_text())
    return result


def tables(tmp_path: Path, title: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of a table by category and mode."""
    return {(row["category"], row["mode"]): row for row in summary(tmp_path)["tables"][title]}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_measures_without_a_judge(command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command() == 0
    found = summary(tmp_path)
    measures = found["tables"].pop("Without a judge")
    assert [(row["category"], row["mode"]) for row in measures] == [
        (category, mode) for category in ("stem", "math", "overall") for mode in ("ar", "apar")
    ]
    assert [row["broken"] for row in measures] == [0, 1, 0, 0, 0, 0.5]
    assert found["tables"] == {}
    assert found["settings"]["answers"] == str(tmp_path / "answers")
    assert "judge_url" not in found["settings"]
    text = (tmp_path / "out" / "summary.md").read_text()
    assert text.count("| apar ") == 3
    assert "nats/token: minus the log-likelihood" in text
    printed = capsys.readouterr().out
    assert "overall" in printed
    assert max(len(line) for line in printed.splitlines() if str(tmp_path) not in line) <= 80
    assert not (tmp_path / "out" / "judge").exists()


def test_names_are_not_cut_on_80_columns(
    command: Command, write_answers: WriteAnswers, capsys: pytest.CaptureFixture[str]
) -> None:
    write_answers("medusa-apar", APAR)
    write_answers("prompt-lookup", AR)
    command()
    printed = capsys.readouterr().out
    assert printed.count("medusa-apar ") == printed.count("prompt-lookup ") == 3


def test_lists_every_answer(command: Command, tmp_path: Path) -> None:
    command()
    answers = lines(tmp_path / "out" / "answers.jsonl")
    assert [(row["mode"], row["question_id"], row["turn"]) for row in answers] == [
        (mode, question_id, turn) for mode in ("ar", "apar") for question_id in (1, 2) for turn in (1, 2)
    ]
    assert answers[4]["defects"] == ["numbering"]
    assert answers[5]["defects"] == ["open end"]
    assert answers[2]["tokens"] == 1
    assert answers[2]["nats_per_token"] > 0


def test_rates_answers(judged: Command, judge: Judge, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ratings = {"one|Q1": "[[8]]", "two|Q1": "[[6]]", "one-math": "[[3]]", "two-math": "nonsense"}
    judge.say = lambda asked: Reply(next(text for start, text in ratings.items() if user(asked).startswith(start)))
    assert judged("--parallel", "3") == 0
    assert sorted(judge.users) == sorted(
        [
            "one|Q1|" + AR[1][0],
            "one|Q1|" + APAR[1][0],
            f"two|Q1|{AR[1][0]}|Q2|So.",
            f"two|Q1|{APAR[1][0]}|Q2|So:",
            "one-math|Q3|r3|4",  # both modes gave this answer, and it is asked about once
            "two-math|Q3|r3|Q4|r4|Q3|4|Q4|5",
            "two-math|Q3|r3|Q4|r4|Q3|4|Q4|6",
        ]
    )
    scores = tables(tmp_path, "Ratings")
    assert scores["stem", "apar"] == {
        "category": "stem", "mode": "apar", "judged": [2, 0, 0], "turn 1": 8, "turn 2": 6, "all": 7,
    }  # fmt: skip
    assert scores["overall", "ar"]["turn 1"] == 5.5
    assert scores["overall", "ar"]["all"] == pytest.approx(17 / 3)
    assert scores["math", "ar"]["turn 2"] is None
    assert scores["overall", "ar"]["judged"] == [3, 1, 0]
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "| overall | apar | 3+1+0 | 5.50 | 6.00 | 5.67 |" in " ".join(text.split())
    assert "- judge_mode: single" in text
    printed = " ".join(capsys.readouterr().out.split())
    assert "2 judgements of http://127.0.0.1" in printed
    assert "name no rating or verdict and count nowhere" in printed


def test_writes_ratings_in_fastchats_format(judged: Command, judge: Judge, tmp_path: Path) -> None:
    judge.say = lambda asked: Reply("hm" if user(asked).startswith("two-math") else "[[8]]")
    judged()
    rows = lines(tmp_path / "out" / "judge" / "single.jsonl")
    assert len(rows) == 8
    assert rows[0].pop("tstamp") > 0
    assert rows[0] == {
        "question_id": 1, "model": "ar", "judge": ["wise", "single-v1"], "user_prompt": "one|Q1|" + AR[1][0],
        "judgment": "[[8]]", "score": 8, "turn": 1,
    }  # fmt: skip
    assert [row["score"] for row in rows] == [8, 8, 8, -1] * 2


def test_compares_with_the_baseline(judged: Command, judge: Judge, tmp_path: Path) -> None:
    def say(asked: Asked) -> Reply:
        text = user(asked)
        if text.startswith("pair|"):  # the mode's answer is better
            return Reply("[[A]]" if "A=" + APAR[1][0] in text else "[[B]]")
        return Reply("[[A]]" if text.startswith("pair-two|") else "[[C]]")  # the order decides

    judge.say = say
    assert judged("--judge-mode", "pairwise") == 0
    assert len(judge.asked) == 6  # the first answers to the second question are the same
    pairs = tables(tmp_path, "Against ar")
    assert list(pairs) == [("stem", "apar"), ("math", "apar"), ("overall", "apar")]
    overall = pairs["overall", "apar"]
    assert [overall[name] for name in ("judged", "same", "wins", "ties", "losses")] == [[4, 0, 0], 1, 1, 3, 0]
    assert overall["all"] == 0.625
    assert pairs["stem", "apar"]["turn 1"] == 1
    assert pairs["stem", "apar"]["turn 2"] == 0.5
    assert summary(tmp_path)["settings"]["baseline"] == "ar"
    assert "## Against ar" in (tmp_path / "out" / "summary.md").read_text()
    rows = lines(tmp_path / "out" / "judge" / "pairwise.jsonl")
    assert [(row["g1_winner"], row["g2_winner"]) for row in rows] == [
        ("model_1", "model_1"), ("model_1", "model_2"), ("tie", "tie"), ("tie", "tie"),
    ]  # fmt: skip


def test_a_comparison_without_a_verdict_counts_nowhere(judged: Command, judge: Judge, tmp_path: Path) -> None:
    judge.say = lambda asked: Reply("[[A]]" if "|A=5" in user(asked) or user(asked).startswith("pair|") else "hm")
    judged("--judge-mode", "pairwise")
    overall = tables(tmp_path, "Against ar")["overall", "apar"]
    assert (overall["judged"], overall["ties"]) == ([2, 2, 0], 2)


def test_a_second_run_asks_nothing(
    judged: Command, judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged()
    judged("--judge-mode", "pairwise")
    before = [(tmp_path / "out" / name).read_bytes() for name in ("measures.jsonl", "judge/judgements.jsonl")]
    judge.asked.clear()
    monkeypatch.setattr(Measurement, "measure", None)
    assert judged() == 0
    assert judged("--judge-mode", "pairwise") == 0
    assert judge.asked == []
    assert [(tmp_path / "out" / name).read_bytes() for name in ("measures.jsonl", "judge/judgements.jsonl")] == before


def test_a_further_mode_is_asked_about_alone(judged: Command, judge: Judge, write_answers: WriteAnswers) -> None:
    judged()
    judge.asked.clear()
    write_answers("medusa", {**AR, 2: ("4", "7")})
    assert judged() == 0
    assert judge.users == ["two-math|Q3|r3|Q4|r4|Q3|4|Q4|7"]


def test_reports_what_there_is_when_the_judge_fails(
    judged: Command, judge: Judge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge.say = lambda _: Reply("[[8]]") if len(judge.asked) < 3 else Reply(status=401)
    assert judged() == 1
    error = capsys.readouterr().err
    assert "refused the key; put one that it takes into the environment variable OPENAI_API_KEY" in error
    assert "2 judgements are kept, and the same command goes on from there" in error
    scores = tables(tmp_path, "Ratings")
    assert [scores["overall", mode]["judged"] for mode in ("ar", "apar")] == [[2, 0, 2], [0, 0, 4]]
    assert [scores["overall", mode][f"turn {turn}"] for mode in ("ar", "apar") for turn in (1, 2)] == [8, 8, None, None]
    judge.say = lambda _: Reply("[[8]]")
    assert judged() == 0
    assert len(judge.asked) == 8


def test_an_inquiry_that_is_refused_is_named(
    judged: Command, judge: Judge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge.say = lambda asked: Reply(status=400) if "Q2|So:" in user(asked) else Reply("[[8]]")
    assert judged() == 1
    assert "refused turn 2 of question 1 under 'single-v1-multi-turn'" in capsys.readouterr().err
    scores = tables(tmp_path, "Ratings")
    assert [scores["stem", mode]["judged"] for mode in ("ar", "apar")] == [[2, 0, 0], [1, 0, 1]]
    assert scores["stem", "apar"]["turn 2"] is None


def test_many_refusals_are_not_all_named(judged: Command, judge: Judge, capsys: pytest.CaptureFixture[str]) -> None:
    judge.say = lambda _: Reply(status=400, body='{"error": {"message": "no temperature, please"}}')
    assert judged() == 1
    error = capsys.readouterr().err
    assert error.count("no temperature, please") == 3
    assert "and 4 more like these" in error


def test_goes_on_after_an_interruption_of_the_judge(
    judged: Command, judge: Judge, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = Endpoint.ask
    calls = []

    async def interrupted(self: Endpoint, inquiry: Any) -> str:
        calls.append(inquiry)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return await ask(self, inquiry)

    monkeypatch.setattr(Endpoint, "ask", interrupted)
    assert judged() == 130
    error = capsys.readouterr().err
    assert "judgements are kept, and the same command goes on from there" in error
    assert error.count("interrupted") == 1
    assert judged() == 0
    assert sorted(judge.users) == sorted(set(judge.users))
    assert len(judge.users) == 7


def test_goes_on_after_an_interruption(
    judged: Command, judge: Judge, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = Measurement.measure
    calls = []

    def interrupted(self: Measurement, turn: Any) -> Any:
        calls.append(turn)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(self, turn)

    monkeypatch.setattr(Measurement, "measure", interrupted)
    assert judged() == 130
    assert "interrupted; 2 measures are kept" in capsys.readouterr().err
    assert judged() == 0
    assert len(calls) == 8  # seven different conversations, one of them twice
    assert len(judge.asked) == 7


def test_the_first_questions_alone(command: Command, tmp_path: Path) -> None:
    command("--limit", "1")
    assert [row["category"] for row in summary(tmp_path)["tables"]["Without a judge"]] == [
        "stem", "stem", "overall", "overall",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--answers", "nowhere"), "answers='nowhere' holds no .jsonl file"),
        (("--questions", "lists"), "ar.jsonl answers question 1, 2, which the question set lacks"),
        (("--judge-model", "wise"), "judge_model='wise' is of no use without a judge; name one with --judge-url"),
        (("--judge-url", "http://localhost"), "needs the judge's name there; give it with --judge-model"),
        (("--judge-url", "localhost", "--judge-model", "wise"), "judge_url='localhost' is no address"),
        (("--judge-mode", "both"), "invalid choice: 'both'"),
        (("--judge-timeout", "0"), "argument --judge-timeout: 0 is too short; give more seconds"),
        (("--parallel", "0"), "0 is less than 1"),
    ],
)
def test_says_what_is_wrong_with_an_argument(
    command: Command, arguments: tuple[str, ...], message: str, refusal: Callable[..., str], tmp_path: Path
) -> None:
    assert message in refusal(command, *arguments)
    assert not (tmp_path / "out").exists()


def test_the_baseline_must_have_answers(judged: Command, refusal: Callable[..., str]) -> None:
    message = refusal(judged, "--judge-mode", "pairwise", "--baseline", "generate")
    assert "baseline='generate' cannot be compared with: there are answers of ar, apar" in message


def test_asks_for_the_package_of_the_judge(
    judged: Command, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "find_spec", lambda _: None)
    assert "needs the package openai; install it with pip install -e '.[judge]' in a checkout" in refusal(judged)


def test_the_tiny_model_finds_its_own_answers_likely(
    write_answers: WriteAnswers, question_file: Callable[..., Path], tmp_path: Path
) -> None:
    questions = question_file(
        '{"question_id": 1, "category": "lists", "turns": ["What are the main causes of stress?"]}'
    )
    folder = write_answers("ar", {1: ("The main causes of stress are multifaceted and interconnected.",)}).parent
    write_answers("shuffled", {1: ("interconnected and multifaceted are stress of causes main The.",)})
    arguments = ["--model", str(TINY), "--dtype", "float32", "--output_dir", str(tmp_path / "out")]
    assert main(["quality", "--answers", str(folder), "--questions", str(questions), *arguments]) == 0
    likely, unlikely, *_ = [row["nats/token"] for row in summary(tmp_path)["tables"]["Without a judge"]]
    assert 0 < likely < 3 < unlikely


def user(asked: Asked) -> str:
    text: str = asked["messages"][1]["content"]
    return text
