"""The judge at an OpenAI-compatible endpoint for chat completions, asked whatever is not known yet."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any, Self, cast

import openai
from tqdm.auto import tqdm

from .inquiries import Inquiry
from .judgements import TEMPERATURE, Judgement, JudgementStore, JudgeOptions

_REFUSALS = (400, 413, 422)
"""Statuses that concern one request, not the endpoint."""
_SHOWN = 200
"""Characters of what the endpoint said that an error repeats."""


class JudgeError(RuntimeError):
    """The endpoint cannot be used as it is: nothing further is to be asked."""


class InquiryRefusedError(RuntimeError):
    """The endpoint refuses this inquiry, for example because its text is too long; it may take another."""


class Endpoint:
    """Asks the judge; several inquiries at a time.

    Args:
        options: who judges, and how requests are sent.
    """

    def __init__(self, options: JudgeOptions) -> None:
        self.options = options
        self._client = openai.AsyncOpenAI(
            base_url=options.url,
            api_key=os.environ.get(options.key_variable) or "none",  # local servers take any
            timeout=options.timeout,
            max_retries=options.retries,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(self, inquiry: Inquiry) -> str:
        """What the judge says; empty where it says nothing.

        Raises:
            InquiryRefusedError: if the endpoint refuses this inquiry.
            JudgeError: if it refuses the key, cannot be reached, fails, or returns no chat completion.
        """
        completion: object = None
        try:
            completion = await self._client.chat.completions.create(
                model=self.options.model,
                messages=cast(Any, inquiry.messages),
                temperature=TEMPERATURE,
                max_tokens=self.options.max_tokens,
            )
            content = completion.choices[0].message.content
        except (openai.OpenAIError, AttributeError, LookupError, TypeError, ValueError) as error:
            where = f"judge_url={self.options.url!r}"
            if isinstance(error, openai.APIStatusError) and error.status_code in _REFUSALS:
                about = f"turn {inquiry.turn} of question {inquiry.question_id!r} under {inquiry.prompt!r}"
                raise InquiryRefusedError(f"{where} refused {about} {_said(error)}") from error
            raise JudgeError(f"{where} {self._failure(error, completion)}") from error
        return content if isinstance(content, str) else ""

    def _failure(self, error: Exception, completion: object) -> str:
        """What went wrong, and the remedy."""
        options = self.options
        asked = f"asked {options.retries + 1} times" if options.retries else "asked once"
        if isinstance(error, openai.APITimeoutError):
            return f"gave no answer within {options.timeout:g} s, {asked}; raise --judge-timeout, or lower --parallel"
        if isinstance(error, openai.APIConnectionError):
            why = error.__cause__ or error
            return f"cannot be reached, {asked} ({why}); check the address, and that the server runs"
        if not isinstance(error, openai.APIStatusError):
            given = _shortened(repr(error if completion is None else completion))
            remedy = "give the address of an OpenAI-compatible endpoint, with /v1 at its end if it has one"
            return f"gave no chat completion; {remedy} (it gave: {given})"
        variable = options.key_variable
        key = "refused the key" if os.environ.get(variable) else "asks for a key, and none is set"
        refused = f"{key}; put one that it takes into the environment variable {variable}"
        explained = {
            401: refused,
            403: refused,
            404: f"does not know this path, or judge_model={options.model!r}; does the URL lack a /v1?",
            429: f"is busy, {asked}; lower --parallel, raise --judge-retries, or see your quota",
        }
        failed = f"fails, {asked}; try again later, or see its log"
        return f"{explained.get(error.status_code, failed)} {_said(error)}"


def _said(error: openai.APIStatusError) -> str:
    said = error.body.get("message") if isinstance(error.body, Mapping) else error.body
    return f"(status {error.status_code}: {_shortened(str(said or error.message))})"


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " ..."


async def judge(inquiries: Iterable[Inquiry], endpoint: Endpoint, store: JudgementStore, parallel: int) -> list[str]:
    """Ask what the store lacks, and keep every judgement as soon as it is there.

    Args:
        inquiries: what is to be asked; the same text is asked once.
        endpoint: who is asked.
        store: what is known already.
        parallel: requests at a time.

    Returns:
        What the endpoint said of inquiries that it refused.

    Raises:
        JudgeError: if the endpoint cannot be used; no further request is sent then.
    """
    by_digest = {inquiry.digest: inquiry for inquiry in inquiries}
    limit = endpoint.options.max_tokens
    missing = [inquiry for digest, inquiry in by_digest.items() if not store.knows(digest, limit)]
    at_once, refused = asyncio.Semaphore(parallel), []

    async def ask(inquiry: Inquiry) -> None:
        async with at_once:
            try:
                text = await endpoint.ask(inquiry)
            except InquiryRefusedError as error:
                refused.append(str(error))
            else:
                about = {name: getattr(inquiry, name) for name in ("digest", "question_id", "turn", "prompt")}
                store.add(Judgement(**about, text=text, max_tokens=limit, finished_at=time.time()))
            progress.update()

    with tqdm(initial=len(by_digest) - len(missing), total=len(by_digest), unit=" judgements") as progress:
        try:
            async with asyncio.TaskGroup() as group:
                for inquiry in missing:
                    group.create_task(ask(inquiry))
        except ExceptionGroup as errors:
            first = errors.exceptions[0]
            raise first from first.__cause__
    return refused
