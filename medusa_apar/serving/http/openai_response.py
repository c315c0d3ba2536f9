"""Answers in OpenAI's format."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any
from uuid import uuid4

from medusa_apar.sampling.logprobs import TokenLogprobs

from ..served_model import ServedModel
from .bodies import Body, ChatBody


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request: of its prompts, of its answers, and those of the prompts that earlier requests computed."""

    prompt: int
    answers: int
    cached: int

    @property
    def shown(self) -> dict[str, Any]:
        """In OpenAI's format."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.answers,
            "total_tokens": self.prompt + self.answers,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


class OpenAiResponse:
    """Responses to one request, in OpenAI's format.

    Args:
        body: the request.
        model: what answers it.
    """

    def __init__(self, body: Body, model: ServedModel) -> None:
        self._chat = isinstance(body, ChatBody)
        self._model = model
        self._top_logprobs = body.wanted_logprobs
        self._common = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{uuid4().hex}",
            "created": int(time.time()),
            "model": model.name,
        }

    def whole(self, texts: Sequence[tuple[str, str, Sequence[TokenLogprobs]]], usage: Usage) -> dict[str, Any]:
        """Complete answers, each with its finish reason and log-probabilities."""
        choices = [
            self._choice(
                index,
                {"message": {"role": "assistant", "content": text, "refusal": None}} if self._chat else {"text": text},
                finish_reason,
                self._logprobs(logprobs),
            )
            for index, (text, finish_reason, logprobs) in enumerate(texts)
        ]
        return self._response("chat.completion", choices) | {"usage": usage.shown}

    def chunk(
        self,
        text: str,
        finish_reason: str | None = None,
        *,
        index: int = 0,
        first: bool = False,
        logprobs: tuple[Sequence[TokenLogprobs], int] | None = None,
    ) -> dict[str, Any]:
        """A part of one of the streamed answers, with the log-probabilities from a number on of all of them so far."""
        delta = ({"role": "assistant"} if first else {}) | ({"content": text} if text or first else {})
        shape = {"delta": delta} if self._chat else {"text": text}
        choice = self._choice(index, shape, finish_reason, None if logprobs is None else self._logprobs(*logprobs))
        return self._response("chat.completion.chunk", [choice])

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """The last chunk of a stream whose client wants to know what it used."""
        return self._response("chat.completion.chunk", []) | {"usage": usage.shown}

    def _choice(
        self, index: int, shape: dict[str, Any], finish_reason: str | None, logprobs: dict[str, Any] | None
    ) -> dict[str, Any]:
        return {"index": index, **shape, "logprobs": logprobs, "finish_reason": finish_reason}

    def _logprobs(self, every: Sequence[TokenLogprobs], start: int = 0) -> dict[str, Any] | None:
        """Those from a number on, in OpenAI's format; None where they are not wanted."""
        if self._top_logprobs is None:
            return None
        if self._chat:
            return {"content": [self._token(each) for each in every[start:]], "refusal": None}
        texts = [self._token_text(each.token_id) for each in every]
        ends = list(accumulate(map(len, texts), initial=0))
        return {
            "tokens": texts[start:],
            "token_logprobs": [each.logprob for each in every[start:]],
            "top_logprobs": [{self._token_text(token): value for token, value in each.top} for each in every[start:]],
            "text_offset": ends[start:-1],
        }

    def _token(self, found: TokenLogprobs) -> dict[str, Any]:
        def entry(token: int, logprob: float) -> dict[str, Any]:
            text = self._token_text(token)
            return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

        return entry(found.token_id, found.logprob) | {"top_logprobs": [entry(*each) for each in found.top]}

    def _token_text(self, token: int) -> str:
        return str(self._model.tokenizer.decode([token], clean_up_tokenization_spaces=False))

    def _response(self, chat_object: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._common | {"object": chat_object if self._chat else "text_completion", "choices": choices}
