"""The judge behind a real server on this machine: keys, retries, limits, and what goes wrong."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from medusa_apar.eval.judge.endpoint import Endpoint, InquiryRefusedError, JudgeError
from medusa_apar.eval.judge.endpoint import judge as judge_all
from medusa_apar.eval.judge.inquiries import Inquiry
from medusa_apar.eval.judge.judgements import JudgementStore, JudgeOptions

from .judge_server import KEY, Judge, Reply

INQUIRIES = [Inquiry(number, 1, "single-v1", "system", f"user {number}") for number in range(1, 7)]


def ask(judge: Judge, **options: object) -> str:
    async def ask_once() -> str:
        async with Endpoint(JudgeOptions(url=judge.url, model="wise", **options)) as endpoint:  # type: ignore[arg-type]
            return await endpoint.ask(INQUIRIES[0])

    return asyncio.run(ask_once())


def test_asks_greedily_for_a_chat_completion(judge: Judge) -> None:
    assert ask(judge, max_tokens=99) == "Good. [[7]]"
    assert judge.asked == [
        {
            "path": "/v1/chat/completions",
            "model": "wise",
            "messages": INQUIRIES[0].messages,
            "temperature": 0.0,
            "max_tokens": 99,
        }
    ]
    assert judge.keys == {f"Bearer {KEY}"}


def test_takes_the_key_from_the_variable_that_is_named(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "mine")
    ask(judge, key_variable="MY_KEY")
    ask(judge, key_variable="UNSET_KEY")
    assert judge.keys == {"Bearer mine", "Bearer none"}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_tries_again_where_the_endpoint_is_busy_or_fails(judge: Judge, status: int) -> None:
    judge.say = lambda _: Reply(status=status) if len(judge.asked) < 3 else Reply()
    assert ask(judge, retries=2) == "Good. [[7]]"
    assert len(judge.asked) == 3


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "refused the key; put one that it takes into the environment variable OPENAI_API_KEY"),
        (403, "refused the key"),
        (404, "does not know this path, or judge_model='wise'; does the URL lack a /v1"),
        (429, "is busy, asked 2 times; lower --parallel"),
        (500, "fails, asked 2 times; try again later"),
    ],
)
def test_names_the_endpoint_and_the_remedy(judge: Judge, status: int, message: str) -> None:
    judge.say = lambda _: Reply(status=status, body='{"error": {"message": "so it is"}}')
    with pytest.raises(JudgeError) as error:
        ask(judge, retries=1)
    assert message in str(error.value)
    assert f"judge_url='{judge.url}'" in str(error.value)
    assert f"(status {status}: so it is)" in str(error.value)
    assert len(judge.asked) == (2 if status in (429, 500) else 1)


def test_says_that_no_key_is_set(judge: Judge) -> None:
    judge.say = lambda _: Reply(status=401)
    with pytest.raises(JudgeError, match=r"asks for a key, and none is set; put one .* variable UNSET_KEY"):
        ask(judge, key_variable="UNSET_KEY")


def test_names_an_inquiry_that_is_refused(judge: Judge) -> None:
    judge.say = lambda _: Reply(status=400, body='{"error": {"message": "too long"}}')
    with pytest.raises(
        InquiryRefusedError, match=r"refused turn 1 of question 1 under 'single-v1' \(status 400: too long"
    ):
        ask(judge)


def test_names_an_endpoint_that_does_not_answer_in_time(judge: Judge) -> None:
    judge.say = lambda _: Reply(delay=1)
    with pytest.raises(JudgeError, match=r"gave no answer within 0.05 s, asked once; raise --judge-timeout"):
        ask(judge, timeout=0.05, retries=0)


def test_names_an_endpoint_that_cannot_be_reached() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    with pytest.raises(JudgeError, match=f"judge_url='{url}' cannot be reached, asked once .*check the address"):
        ask(Judge(url=url), retries=0)


@pytest.mark.parametrize(
    "body", ["<html>Welcome</html>", '{"error": "none"}', '{"choices": []}', "{not JSON", '{"choices": 3}']
)
def test_names_an_endpoint_that_speaks_another_language(judge: Judge, body: str) -> None:
    judge.say = lambda _: Reply(body=body)
    with pytest.raises(JudgeError, match="gave no chat completion; give the address of an OpenAI-compatible"):
        ask(judge)


def test_a_judge_may_say_nothing(judge: Judge) -> None:
    judge.say = lambda _: Reply(text=None)
    assert ask(judge) == ""


def test_refuses_an_address_that_is_none() -> None:
    with pytest.raises(ValueError, match="judge_url='localhost:8000' is no address"):
        JudgeOptions(url="localhost:8000", model="wise")


def judge_with(
    judge: Judge, folder: Path, parallel: int = 1, inquiries: Sequence[Inquiry] = INQUIRIES, **options: object
) -> tuple[list[str], dict[int | str, str]]:
    given = JudgeOptions(url=judge.url, model="wise", **options)  # type: ignore[arg-type]

    async def ask_all(store: JudgementStore) -> list[str]:
        async with Endpoint(given) as endpoint:
            return await judge_all(inquiries, endpoint, store, parallel)

    with JudgementStore(folder, given) as store:
        refused = asyncio.run(ask_all(store))
        return refused, {judgement.question_id: judgement.text for judgement in store.records.values()}


def test_asks_nothing_twice(judge: Judge, tmp_path: Path) -> None:
    refused, texts = judge_with(judge, tmp_path)
    assert refused == []
    assert texts == dict.fromkeys(range(1, 7), "Good. [[7]]")
    assert judge.users == [inquiry.user for inquiry in INQUIRIES]
    assert judge_with(judge, tmp_path) == (refused, texts)
    assert len(judge.asked) == 6


def test_the_same_text_is_asked_once(judge: Judge, tmp_path: Path) -> None:
    judge_with(judge, tmp_path, inquiries=[*INQUIRIES, *INQUIRIES])
    assert len(judge.asked) == 6


def test_keeps_what_was_judged_before_an_error_and_goes_on(judge: Judge, tmp_path: Path) -> None:
    judge.say = lambda _: Reply() if len(judge.asked) < 4 else Reply(status=401)
    with pytest.raises(JudgeError, match="refused the key"):
        judge_with(judge, tmp_path)
    assert (tmp_path / "judgements.jsonl").read_text().count("\n") == 3
    judge.say = lambda _: Reply()
    judge.asked.clear()
    refused, texts = judge_with(judge, tmp_path)
    assert (refused, len(texts)) == ([], 6)
    assert judge.users == [inquiry.user for inquiry in INQUIRIES[3:]]


def test_sends_nothing_after_an_error(judge: Judge, tmp_path: Path) -> None:
    """Not even the further attempts of requests that were under way."""
    judge.say = lambda _: Reply(status=401, delay=0.1) if len(judge.asked) == 1 else Reply(status=429, delay=0.2)
    with pytest.raises(JudgeError, match="refused the key"):
        judge_with(judge, tmp_path, parallel=3, retries=50)
    assert len(judge.asked) == 3


def test_goes_on_behind_an_inquiry_that_is_refused_and_asks_it_again(judge: Judge, tmp_path: Path) -> None:
    judge.say = lambda asked: Reply(status=400) if asked["messages"][1]["content"] == "user 2" else Reply()
    refused, texts = judge_with(judge, tmp_path)
    assert len(refused) == 1
    assert "question 2" in refused[0]
    assert sorted(texts) == [1, 3, 4, 5, 6]  # type: ignore[type-var]
    judge.say = lambda _: Reply()
    judge.asked.clear()
    assert len(judge_with(judge, tmp_path)[1]) == 6
    assert judge.users == ["user 2"]


def test_asks_so_many_at_a_time(judge: Judge, tmp_path: Path) -> None:
    judge.say = lambda _: Reply(delay=0.05)
    judge_with(judge, tmp_path / "one", parallel=1)
    assert judge.at_once == 1
    judge_with(judge, tmp_path / "three", parallel=3)
    assert 1 < judge.at_once <= 3


def test_refuses_the_judgements_of_another_judge(judge: Judge, tmp_path: Path) -> None:
    judge_with(judge, tmp_path)
    with pytest.raises(ValueError, match="judge_model was 'wise', is 'wiser'"):
        JudgementStore(tmp_path, JudgeOptions(url=judge.url, model="wiser"))


def test_what_was_left_undecided_is_asked_again_once_the_judge_may_say_more(judge: Judge, tmp_path: Path) -> None:
    judge.say = lambda asked: Reply("[[7]]" if asked["max_tokens"] > 50 else "Let me think")
    assert set(judge_with(judge, tmp_path, max_tokens=50)[1].values()) == {"Let me think"}
    judge.asked.clear()
    judge_with(judge, tmp_path, max_tokens=50)
    assert judge.asked == []
    assert set(judge_with(judge, tmp_path, max_tokens=100)[1].values()) == {"[[7]]"}
    judge.asked.clear()
    judge_with(judge, tmp_path, max_tokens=200)
    assert judge.asked == []
