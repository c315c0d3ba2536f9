"""The judge behind an OpenAI-compatible endpoint for chat completions."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Self, cast

import openai

from .inquiries import Inquiry
from .options import TEMPERATURE, InquiryRefusedError, JudgeError, JudgeOptions

_NO_KEY = "none"
"""What is sent where no key is set: local servers take any."""

_REFUSALS = (400, 413, 422)
"""Statuses by which an endpoint refuses this request, but maybe not another."""


class StoppedError(Exception):
    """A request that is not to be sent any more."""


class Pace:
    """Lets requests of several threads through one by one, evenly spread over a minute.

    Args:
        per_minute: how many requests a minute; None for no limit.
    """

    def __init__(self, per_minute: int | None) -> None:
        self._interval = 60 / per_minute if per_minute else 0.0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._next = 0.0

    def wait(self) -> None:
        """Wait for the turn of the next request.

        Raises:
            StoppedError: after `stop`.
        """
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._interval
        if self._stopped.wait(max(0.0, turn - time.monotonic())):
            raise StoppedError

    def stop(self) -> None:
        """Let no further request through."""
        self._stopped.set()


class Endpoint:
    """Asks the judge; several threads may at once.

    Args:
        options: who judges, and how requests are sent.
    """

    def __init__(self, options: JudgeOptions) -> None:
        self.options = options
        self._pace = Pace(options.requests_per_minute)
        self._client = openai.OpenAI(
            base_url=options.url,
            api_key=os.environ.get(options.key_variable) or _NO_KEY,
            timeout=options.timeout,
            max_retries=options.retries,
            http_client=openai.DefaultHttpxClient(event_hooks={"request": [lambda _: self._pace.wait()]}),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def stop(self) -> None:
        """Send no further request; those that wait for their turn raise `StoppedError`."""
        self._pace.stop()

    def ask(self, inquiry: Inquiry) -> str:
        """What the judge says; empty where it says nothing.

        Raises:
            InquiryRefusedError: if the endpoint refuses this inquiry.
            JudgeError: if it refuses the key, cannot be reached, fails, or speaks another language; it stops then.
            StoppedError: after `stop`.
        """
        try:
            return self._ask(inquiry)
        except JudgeError:
            self.stop()
            raise

    def _ask(self, inquiry: Inquiry) -> str:
        try:
            completion = self._client.chat.completions.create(
                model=self.options.model,
                messages=cast(Any, inquiry.messages),
                temperature=TEMPERATURE,
                max_tokens=self.options.max_tokens,
            )
        except openai.OpenAIError as error:
            self._explain(inquiry, error)
        except ValueError as error:  # a body that is no JSON
            raise self._nonsense(str(error)) from error
        return self._text(completion)

    def _explain(self, inquiry: Inquiry, error: openai.OpenAIError) -> NoReturn:
        """Raise the error that names the endpoint and the remedy."""
        options = self.options
        where = f"judge_url={options.url!r}"
        if isinstance(error, openai.APITimeoutError):
            raise JudgeError(
                f"{where} gave no answer within {options.timeout:g} s, {_attempts(options)}; raise --judge-timeout, or "
                "lower --parallel"
            ) from error
        if isinstance(error, openai.APIConnectionError):
            raise JudgeError(
                f"{where} cannot be reached, {_attempts(options)} ({error.__cause__ or error}); check the address, and "
                "that the server runs"
            ) from error
        if not isinstance(error, openai.APIStatusError):
            raise self._nonsense(str(error)) from error
        said = f"status {error.status_code}: {_message(error)}"
        if error.status_code in _REFUSALS:
            about = f"turn {inquiry.turn} of question {inquiry.question_id!r} under {inquiry.prompt!r}"
            raise InquiryRefusedError(f"{where} refused {about} ({said})") from error
        raise JudgeError(f"{where} {self._failure(error.status_code)} ({said})") from error

    def _failure(self, status: int) -> str:
        variable = self.options.key_variable
        if status in (401, 403):
            known = "refused the key" if os.environ.get(variable) else "asks for a key, and none is set"
            return f"{known}; put one that it takes into the environment variable {variable}"
        if status == 404:
            return f"does not know this path, or judge_model={self.options.model!r}; does the URL lack a /v1?"
        if status == 429:
            return f"is busy, {_attempts(self.options)}; lower --requests-per-minute or --parallel, or see your quota"
        return f"fails, {_attempts(self.options)}; try again later, or see its log"

    def _text(self, completion: object) -> str:
        choices = getattr(completion, "choices", None)
        message = getattr(choices[0], "message", None) if isinstance(choices, Sequence) and choices else None
        if message is None:
            raise self._nonsense(repr(completion))
        content = getattr(message, "content", None)
        return content if isinstance(content, str) else ""

    def _nonsense(self, said: str) -> JudgeError:
        return JudgeError(
            f"judge_url={self.options.url!r} gave no chat completion; give the address of an OpenAI-compatible "
            f"endpoint, with /v1 at its end if it has one (it gave: {_shortened(said)})"
        )


def _attempts(options: JudgeOptions) -> str:
    return f"asked {options.retries + 1} times" if options.retries else "asked once"


def _message(error: openai.APIStatusError) -> str:
    body = error.body
    said = body.get("message") if isinstance(body, Mapping) else body
    return _shortened(str(said or error.message))


def _shortened(text: str, length: int = 200) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[:length] + " ..."
