"""The OpenAI interface: what clients send, and what they get."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Literal
from uuid import uuid4

from jinja2 import TemplateError
from pydantic import BaseModel, ConfigDict, Field

from .requests import AnswerRequest
from .served_model import ServedModel

DEFAULT_THREADS = 8
LEAST_TEMPERATURE = 0.01
"""Below it, but for 0, scores would overflow; vLLM draws the line there too."""


class RefusedRequestError(Exception):
    """A request that cannot be served; says why.

    Args:
        message: names the argument, the value and the remedy.
        param: the argument.
        status: of the HTTP response.
    """

    def __init__(self, message: str, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.status = status


class StreamOptions(BaseModel):
    """Of streamed answers."""

    include_usage: bool = False


class _Body(BaseModel):
    """What chats and completions have in common. Our own arguments are those of `generate`."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    repetition_penalty: float | None = Field(None, ge=0.1, le=10)
    seed: int | None = None
    stop: str | list[str] | None = None
    n: Literal[1, None] = None
    presence_penalty: float | None = Field(None, ge=0, le=0)
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    logit_bias: dict[str, float] | None = Field(None, max_length=0)
    user: str | None = None
    apar: bool = True
    max_depth: int | None = Field(None, ge=1)
    max_threads: int | None = Field(None, ge=1)

    @property
    def stop_strings(self) -> list[str]:
        """As a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def limit(self) -> int | None:
        """Tokens of the answer; None for as many as there is room for."""
        raise NotImplementedError

    def prompt_token_ids(self, model: ServedModel) -> list[int]:
        """The prompt's tokens."""
        raise NotImplementedError

    def answer_request(self, model: ServedModel, most_threads: int) -> AnswerRequest:
        """What is to be written.

        Raises:
            RefusedRequestError: the model is another one, or the prompt is empty or too long.
        """
        if self.model is not None and self.model != model.name:
            raise RefusedRequestError(
                f"The model {self.model!r} does not exist; this server has {model.name!r}.", "model", status=404
            )
        prompt = self.prompt_token_ids(model)
        room = model.context_length - len(prompt)
        if not prompt or room < 1:
            raise RefusedRequestError(
                f"The prompt has {len(prompt)} tokens; give from 1 to {model.context_length - 1}.", self._prompt_name
            )
        if not all(map(model.knows, prompt)):
            raise RefusedRequestError(
                f"The prompt has token ids beyond 0 to {model.vocab_size - 1}.", self._prompt_name
            )
        depth = model.max_depth if self.max_depth is None else self.max_depth
        given = {
            name: value
            for name in ("temperature", "top_p", "top_k", "repetition_penalty", "seed")
            if (value := getattr(self, name)) is not None
        }
        if given.get("temperature"):
            given["temperature"] = max(given["temperature"], LEAST_TEMPERATURE)
        return AnswerRequest(
            prompt_token_ids=prompt,
            max_new_tokens=room if self.limit is None else self.limit,
            max_depth=depth if self.apar and model.control is not None else 1,
            max_threads=min(self.max_threads or DEFAULT_THREADS, most_threads),
            sampling=replace(model.sampling, **given),
        )

    @property
    def _prompt_name(self) -> str:
        return "prompt"


class TextPart(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        """What it says."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(_Body):
    """The body of `POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    logprobs: Literal[False, None] = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def _prompt_name(self) -> str:
        return "messages"

    def prompt_token_ids(self, model: ServedModel) -> list[int]:
        chat = [{"role": message.role, "content": message.text} for message in self.messages]
        try:
            chosen: Any = model.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)
        except (TemplateError, ValueError) as error:
            raise RefusedRequestError(f"The chat template refuses these messages: {error}", "messages") from error
        token_ids: list[int] = chosen["input_ids"]
        return token_ids


class CompletionBody(_Body):
    """The body of `POST /v1/completions`."""

    prompt: str | list[int] | list[str]
    max_tokens: int | None = Field(16, ge=1)
    echo: Literal[False, None] = None
    best_of: Literal[1, None] = None
    suffix: None = None
    logprobs: None = None

    @property
    def limit(self) -> int | None:
        return self.max_tokens

    def prompt_token_ids(self, model: ServedModel) -> list[int]:
        prompt = self.prompt
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], str):
            if len(prompt) > 1:
                raise RefusedRequestError(f"There are {len(prompt)} prompts; send one request for each.", "prompt")
            prompt = prompt[0]
        if isinstance(prompt, str):
            token_ids: list[int] = model.tokenizer(prompt)["input_ids"]
            return token_ids
        return [token for token in prompt if isinstance(token, int)]


class OpenAiResponse:
    """Responses to one request, in OpenAI's format.

    Args:
        body: the request.
        model: what answers it.
        prompt_tokens: in its prompt.
    """

    def __init__(self, body: _Body, model: ServedModel, prompt_tokens: int) -> None:
        self._chat = isinstance(body, ChatBody)
        self._prompt_tokens = prompt_tokens
        self._common = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{uuid4().hex}",
            "created": int(time.time()),
            "model": model.name,
        }

    def whole(self, text: str, finish_reason: str, tokens: int) -> dict[str, Any]:
        """A complete answer."""
        shape = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        return self._response("chat.completion", shape, finish_reason) | {"usage": self._usage(tokens)}

    def chunk(self, text: str, finish_reason: str | None = None, *, first: bool = False) -> dict[str, Any]:
        """A part of a streamed answer."""
        delta = ({"role": "assistant"} if first else {}) | ({"content": text} if text or first else {})
        return self._response(
            "chat.completion.chunk", {"delta": delta} if self._chat else {"text": text}, finish_reason
        )

    def usage_chunk(self, tokens: int) -> dict[str, Any]:
        """The last chunk of a streamed answer whose client wants to know what it used."""
        return self.chunk("") | {"choices": [], "usage": self._usage(tokens)}

    def _response(self, chat_object: str, shape: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, **shape, "logprobs": None, "finish_reason": finish_reason}
        return self._common | {"object": chat_object if self._chat else "text_completion", "choices": [choice]}

    def _usage(self, tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self._prompt_tokens + tokens,
        }


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's format."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
