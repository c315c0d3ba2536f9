"""Time to the first token of conversations, on one or several running servers in turn.

    python -m benchmarks.conversations http://127.0.0.1:8000/v1 http://127.0.0.1:8001/v1 --questions mt_bench

Each server is asked the turns of a question one after the other, with the answers before; then the next server is. A
server counts the tokens of a prompt that it had computed for earlier requests in its usage.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from openai import AsyncOpenAI

from medusa_apar.argument_types import ArgumentParser, not_negative, positive
from medusa_apar.eval.measurement.question_sets import Question, load_questions

SENTENCE = "Rule {}: be kind, be brief, and say so where you do not know something. "
SENTENCE_TOKENS = 20
"""About as many."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request took.

    Attributes:
        turn: 1, 2, ... in its conversation.
        first: seconds until every copy has its first token.
        prompt, cached, tokens: of the prompt, of it computed before, and of all copies of the answer.
    """

    turn: int
    first: float
    prompt: int
    cached: int
    tokens: int


async def converse(
    client: AsyncOpenAI, turns: Sequence[str], system: str, max_tokens: int, copies: int
) -> list[Answer]:
    """Ask the turns of a conversation for so many answers each, of which the first is taken; greedy."""
    model = (await client.models.list()).data[0].id
    messages: list[Any] = [{"role": "system", "content": system}] if system else []
    answers = []
    for turn, content in enumerate(turns, start=1):
        messages.append({"role": "user", "content": content})
        start, first, texts, usage = time.perf_counter(), 0.0, [""] * copies, None
        stream = await client.chat.completions.create(
            model=model, messages=messages, max_tokens=max_tokens, temperature=0.0, n=copies, stream=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
            first = first or (time.perf_counter() - start if all(texts) else 0.0)
            usage = chunk.usage or usage
        assert usage is not None
        details = usage.prompt_tokens_details
        cached = 0 if details is None else details.cached_tokens or 0
        first = first or time.perf_counter() - start
        answers.append(Answer(turn, first, usage.prompt_tokens, cached, usage.completion_tokens))
        messages.append({"role": "assistant", "content": texts[0]})
    return answers


async def measure(
    clients: Sequence[AsyncOpenAI], questions: Sequence[Question], system: str, max_tokens: int, copies: int
) -> list[tuple[list[Answer], float]]:
    """The answers of each server, and the seconds that it took for all."""
    found: list[list[Answer]] = [[] for _ in clients]
    seconds = [0.0] * len(clients)
    for question in questions:
        for number, client in enumerate(clients):
            start = time.perf_counter()
            found[number] += await converse(client, question.turns, system, max_tokens, copies)
            seconds[number] += time.perf_counter() - start
    return [*zip(found, seconds, strict=True)]


def lines(name: str, answers: Sequence[Answer], seconds: float) -> list[str]:
    """Figures of a server, as lines of a markdown table."""
    rate = sum(answer.tokens for answer in answers) / seconds
    table = []
    for turn in sorted({answer.turn for answer in answers}):
        own = [answer for answer in answers if answer.turn == turn]
        firsts = [1000 * answer.first for answer in own]
        low, _, high = quantiles(firsts, n=4) if len(firsts) > 1 else firsts * 3
        prompt, cached = (sum(getattr(answer, kind) for answer in own) for kind in ("prompt", "cached"))
        table.append(
            f"| {name} | {turn} | {len(own)} | {prompt:,} | {prompt - cached:,} "
            f"| {median(firsts):.0f} ({low:.0f}-{high:.0f}) | {rate:.1f} |"
        )
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Print a markdown table."""
    parser = ArgumentParser(
        prog="python -m benchmarks.conversations", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("urls", nargs="+", help="of the servers, with /v1")
    parser.add_argument("--questions", default="mt_bench", help="a set, or a file in FastChat's format")
    parser.add_argument("--limit", type=positive, help="questions; by default all")
    parser.add_argument("--system-tokens", type=not_negative, default=0, help="of a system prompt, roughly")
    parser.add_argument("--copies", type=positive, default=1, help="answers to each prompt: `n` of the API")
    parser.add_argument("--max-new-tokens", type=positive, default=128, help="of an answer")
    arguments = parser.parse_args(argv)
    questions = load_questions(arguments.questions)[: arguments.limit]
    system = "".join(SENTENCE.format(number) for number in range(arguments.system_tokens // SENTENCE_TOKENS))

    async def run() -> list[tuple[list[Answer], float]]:
        clients = [AsyncOpenAI(base_url=url, api_key="none", timeout=600) for url in arguments.urls]
        return await measure(clients, questions, system, arguments.max_new_tokens, arguments.copies)

    measured = asyncio.run(run())
    print("| | turn | requests | prompt tokens | prefilled | first token, ms (quartiles) | tokens/s, all turns |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for url, (answers, seconds) in zip(arguments.urls, measured, strict=True):
        print("\n".join(lines(url, answers, seconds)))


if __name__ == "__main__":
    main()
