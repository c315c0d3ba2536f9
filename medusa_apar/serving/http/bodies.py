"""What OpenAI's clients send."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from jinja2 import TemplateError
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from medusa_apar.sampling.grammar import json_grammar

from ..requests import AnswerRequest
from ..served_model import ServedModel
from .errors import RefusedRequestError

DEFAULT_THREADS = 8
MOST_LOGPROBS = 20
"""Likeliest tokens beside each token, as OpenAI has it."""
MOST_CHOICES = 128
"""Answers to one request, as OpenAI has it."""
_SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
    "fork_bias",
)  # fmt: skip
"""Fields of a body that are those of `Sampling`."""
LEAST_TEMPERATURE = 0.01
"""Below it, but for 0, scores would overflow; vLLM draws the line there too."""


def _only_neutral(*neutral: Any) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if value not in neutral:
            raise ValueError("is not supported by this server; leave it out")

    return check


def _zero_for_all(top_k: Any) -> Any:
    """Read vLLM's -1, which leaves all tokens, as 0."""
    return 0 if top_k == -1 else top_k


class NullsAreAbsent(BaseModel):
    """A body in which a field that is null is one that was left out."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        return {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given


class StreamOptions(BaseModel):
    """Of streamed answers."""

    include_usage: bool = False


class JsonSchema(NullsAreAbsent):
    """What JSON is to look like."""

    name: str
    description: str | None = None
    schema_: dict[str, Any] = Field({}, alias="schema")
    strict: bool | None = None


class ResponseFormat(NullsAreAbsent):
    """Text, or JSON."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def grammar(self) -> str:
        """That the answer is to follow; empty for text.

        Raises:
            RefusedRequestError: there is no schema, or none that a grammar can express.
        """
        if self.type == "text":
            return ""
        if self.type == "json_schema" and self.json_schema is None:
            raise RefusedRequestError("response_format: json_schema is missing.", "response_format.json_schema")
        try:
            return json_grammar(None if self.json_schema is None else self.json_schema.schema_)
        except ValueError as error:
            raise RefusedRequestError(
                f"response_format: this schema cannot be followed: {error}.", "response_format.json_schema.schema"
            ) from error


Bias = Annotated[float, Field(ge=-100, le=100)]


class Body(NullsAreAbsent):
    """What chats and completions have in common. Our own arguments are those of `generate`."""

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: Annotated[int | None, Field(ge=0), BeforeValidator(_zero_for_all)] = None
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.1, le=10)
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[int, Bias] | None = None
    response_format: ResponseFormat | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    service_tier: str | None = None
    apar: bool = True
    fork_bias: Bias | None = None
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

    @property
    def wanted_logprobs(self) -> int | None:
        """How many of the likeliest tokens are wanted beside each token's log-probability; None: neither."""
        raise NotImplementedError

    def prompts(self, model: ServedModel) -> list[list[int]]:
        """The tokens of every prompt."""
        raise NotImplementedError

    def answer_requests(self, model: ServedModel, most_threads: int) -> list[AnswerRequest]:
        """What is to be written: `n` answers to each prompt.

        Raises:
            RefusedRequestError: the model is another one, or a prompt is empty or too long.
        """
        check_model(self.model, model)
        if self.stream_options is not None and not self.stream:
            raise RefusedRequestError("stream_options is for streams; leave it out, or set stream.", "stream_options")
        requests = [self._answer_request(model, most_threads, prompt) for prompt in self.prompts(model)]
        if len(requests) * self.n > MOST_CHOICES:
            raise RefusedRequestError(
                f"{len(requests)} prompts with n={self.n} are more than {MOST_CHOICES} answers; send several requests.",
                "n" if self.n > 1 else self._prompt_name,
            )
        return [replace(request, copy=copy) for request in requests for copy in range(self.n)]

    def _answer_request(self, model: ServedModel, most_threads: int, prompt: list[int]) -> AnswerRequest:
        room = model.context_length - len(prompt)
        if not prompt or room < 1:
            raise RefusedRequestError(
                f"The prompt has {len(prompt)} tokens; give from 1 to {model.context_length - 1}.",
                self._prompt_name,
                code="context_length_exceeded" if prompt else "invalid_value",
            )
        if not all(map(model.knows, prompt)):
            raise RefusedRequestError(
                f"The prompt has token ids beyond 0 to {model.vocab_size - 1}.", self._prompt_name
            )
        depth = model.max_depth if self.max_depth is None else self.max_depth
        beyond = [token for token in self.logit_bias or () if not model.knows(token)]
        if beyond:
            raise RefusedRequestError(
                f"logit_bias has the token id {beyond[0]}, beyond 0 to {model.vocab_size - 1}.", "logit_bias"
            )
        given = {name: value for name in _SAMPLING if (value := getattr(self, name)) is not None}
        if self.logit_bias:
            given["logit_bias"] = tuple(sorted(self.logit_bias.items()))
        if given.get("temperature"):
            given["temperature"] = max(given["temperature"], LEAST_TEMPERATURE)
        if self.response_format is not None:
            given["grammar"] = self.response_format.grammar()
        threads = self.apar and model.control is not None and not given.get("grammar")
        return AnswerRequest(
            prompt_token_ids=prompt,
            max_new_tokens=room if self.limit is None else self.limit,
            max_depth=depth if threads else 1,
            max_threads=min(self.max_threads or DEFAULT_THREADS, most_threads),
            sampling=replace(model.sampling, **given),
            logprobs=self.wanted_logprobs,
        )

    @property
    def _prompt_name(self) -> str:
        return "prompt"


def _joined(content: Any) -> Any:
    """The text of a message whose content is in parts.

    Raises:
        ValueError: a part is no text.
    """
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "refusal"):
            raise ValueError(f"has a part of type {kind!r}, and the model reads text alone; send parts of type 'text'")
        if not isinstance(part.get(kind), str):
            raise ValueError(f"has a part of type {kind!r} without a string {kind!r}")
        texts.append(part[kind])
    return "".join(texts)


class Message(NullsAreAbsent):
    """One message of a chat."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_joined)]
    tool_calls: Annotated[Any, AfterValidator(_only_neutral([]))] = None
    function_call: Annotated[Any, AfterValidator(_only_neutral())] = None

    def as_template_takes_it(self) -> dict[str, str]:
        """Role and text; chat templates know no `developer`, which is OpenAI's later name of `system`."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class ChatBody(Body):
    """The body of `POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    tools: Annotated[Any, AfterValidator(_only_neutral([]))] = None
    tool_choice: Annotated[Any, AfterValidator(_only_neutral("none", "auto"))] = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[Any, AfterValidator(_only_neutral([]))] = None
    function_call: Annotated[Any, AfterValidator(_only_neutral("none", "auto"))] = None
    modalities: Annotated[Any, AfterValidator(_only_neutral(["text"]))] = None
    audio: Annotated[Any, AfterValidator(_only_neutral())] = None
    prediction: Annotated[Any, AfterValidator(_only_neutral())] = None
    reasoning_effort: Annotated[Any, AfterValidator(_only_neutral("none"))] = None
    verbosity: Annotated[Any, AfterValidator(_only_neutral("medium"))] = None
    web_search_options: Annotated[Any, AfterValidator(_only_neutral())] = None
    store: Annotated[Any, AfterValidator(_only_neutral(False))] = None
    moderation: Annotated[Any, AfterValidator(_only_neutral())] = None

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        if self.logprobs:
            return self.top_logprobs or 0
        if self.top_logprobs:
            raise RefusedRequestError(
                f"top_logprobs={self.top_logprobs} needs logprobs; set that, or leave it out.", "top_logprobs"
            )
        return None

    @property
    def _prompt_name(self) -> str:
        return "messages"

    def prompts(self, model: ServedModel) -> list[list[int]]:
        return [chat_token_ids(self.messages, model)]


class CompletionBody(Body):
    """The body of `POST /v1/completions`."""

    prompt: str | list[int] | list[str] | list[list[int]]
    max_tokens: int | None = Field(16, ge=1)
    echo: Annotated[Any, AfterValidator(_only_neutral(False))] = None
    best_of: Annotated[Any, AfterValidator(_only_neutral(1))] = None
    suffix: Annotated[Any, AfterValidator(_only_neutral(""))] = None
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)

    @property
    def limit(self) -> int | None:
        return self.max_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        return self.logprobs

    def prompts(self, model: ServedModel) -> list[list[int]]:
        several: Any = self.prompt
        if isinstance(several, str) or not several or isinstance(several[0], int):
            several = [several]
        return [model.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt for prompt in several]


class TokenizeBody(NullsAreAbsent):
    """The body of `POST /tokenize`, as vLLM has it: a prompt or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = Field(None, min_length=1)
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    return_token_strs: bool = False

    def tokens(self, model: ServedModel) -> dict[str, Any]:
        """The tokens, and how many there are."""
        check_model(self.model, model)
        if (self.prompt is None) == (self.messages is None):
            raise RefusedRequestError("Give either prompt or messages.", "prompt")
        if self.messages is not None:
            token_ids = chat_token_ids(self.messages, model, add_generation_prompt=self.add_generation_prompt)
        else:
            token_ids = model.tokenizer(self.prompt, add_special_tokens=self.add_special_tokens)["input_ids"]
        names = model.tokenizer.convert_ids_to_tokens(token_ids) if self.return_token_strs else None
        shape = {"count": len(token_ids), "max_model_len": model.context_length}
        return {**shape, "tokens": token_ids, "token_strs": names}


class DetokenizeBody(NullsAreAbsent):
    """The body of `POST /detokenize`, as vLLM has it."""

    model: str | None = None
    tokens: list[int]

    def text(self, model: ServedModel) -> dict[str, str]:
        """What the tokens say, special tokens included."""
        check_model(self.model, model)
        if not all(map(model.knows, self.tokens)):
            raise RefusedRequestError(f"tokens has ids beyond 0 to {model.vocab_size - 1}.", "tokens")
        return {"prompt": str(model.tokenizer.decode(self.tokens, clean_up_tokenization_spaces=False))}


def check_model(asked: str | None, model: ServedModel) -> None:
    """Raise a RefusedRequestError where another model is asked for."""
    if asked is not None and asked != model.name:
        raise RefusedRequestError(
            f"The model {asked!r} does not exist; this server has {model.name!r}.", "model", 404, "model_not_found"
        )


def chat_token_ids(messages: Sequence[Message], model: ServedModel, *, add_generation_prompt: bool = True) -> list[int]:
    """The tokens of a chat.

    Raises:
        RefusedRequestError: the chat template refuses it.
    """
    chat = [message.as_template_takes_it() for message in messages]
    try:
        chosen: Any = model.tokenizer.apply_chat_template(
            chat, add_generation_prompt=add_generation_prompt, return_dict=True
        )
    except (TemplateError, ValueError) as error:
        raise RefusedRequestError(f"The chat template refuses these messages: {error}", "messages") from error
    token_ids: list[int] = chosen["input_ids"]
    return token_ids
