"""Responses of one row: its columns and turns, in the formats that training data comes in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .bad_rows import BadRowError

Message = dict[str, str]
"""`role` and `content`, as chat templates take them."""

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
}
"""Roles of a chat template by their names in the formats."""

_TURNS = {"messages": ("role", "content"), "conversations": ("from", "value")}
"""Lists of turns: how a turn names its speaker and its text."""

_SYSTEM = ("system", "system_prompt")

_CALLS = ("tool_calls", "function_call")
"""What an assistant's turn holds where it calls tools."""

COLUMNS = ("prompt", "response", "instruction", "input", "output", "history", "tools", "functions", *_SYSTEM, *_TURNS)
"""All columns that are read."""

_UNREAD = "-"
"""Placeholder of an answer that is not read."""

_FORMATS = "none of `prompt` and `response`, `messages`, `conversations`, `instruction` and `output`"


@dataclass(frozen=True, slots=True)
class Response:
    """One answer and what it answers.

    Attributes:
        prompt: the last user message.
        response: the answer.
        history: the messages before the prompt.
        tools: JSON schemas of the tools that the conversation may call, as `apply_chat_template` takes them.
        place: where its row is: file and line, or folder and number. Errors name it.
    """

    prompt: str
    response: str
    history: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    place: str = field(default="a response", compare=False)

    @property
    def question(self) -> list[Message]:
        """All messages before the answer."""
        return [*self.history, {"role": "user", "content": self.prompt}]


class _Turn(NamedTuple):
    role: str
    content: str
    labelled: bool = True
    """Whether an answer is a label; one that is not is context."""

    @property
    def message(self) -> Message:
        return {"role": self.role, "content": self.content}


def responses(row: Any, place: str) -> list[Response]:
    """The responses of a row.

    Every answer of a conversation is a response. Answers of weight 0 and answers in a `history` column are context
    only. A column or a field of a turn that is null is absent.

    Args:
        row: an object with the columns of one of the formats, as JSON or `datasets` give it.
        place: where the row is.

    Raises:
        BadRowError: the row is in none of the formats, or a part of it cannot be used.
    """
    if not isinstance(row, dict):
        raise BadRowError(_FORMATS)
    row = _present(row)
    turns = _turns(row)
    if "history" in row:
        first = 1 if turns and turns[0].role == "system" else 0
        turns = [*turns[:first], *_history(row["history"]), *turns[first:]]
    system = _system(row)
    if turns and turns[0].role == "system":
        system, turns = turns[0].message, turns[1:]
    tools = _tools(row)
    before = [] if system is None else [system]
    return [
        Response(
            prompt=turns[at - 1].content,
            response=turns[at].content,
            history=(*before, *(turn.message for turn in turns[: at - 1])),
            tools=tools,
            place=place,
        )
        for at in _labelled(turns)
    ]


def questions(row: Any) -> list[list[Message]]:
    """The questions of a row: the messages up to each turn of the user, whether it is answered or not.

    Args:
        row: as for `responses`; it may have a `prompt` or an `instruction` alone, or FastChat's `turns`, of which the
            first one is read.

    Raises:
        BadRowError: the row is in none of the formats, or a part of it cannot be used.
    """
    if not isinstance(row, dict):
        raise BadRowError(_FORMATS)
    row = _present(row)
    if isinstance(row.get("turns"), list):  # of FastChat's question files; later turns need the answer to the first
        return [[{"role": "user", "content": _text(turn, "`turns`")}] for turn in row["turns"][:1]]
    answer = {"prompt": "response", "instruction": "output"}
    for question, name in answer.items():
        if question in row and not any(isinstance(row.get(turns), list) for turns in _TURNS):
            row = {name: _UNREAD, **row}
    turns = _turns(row)
    system = _system(row)
    if turns and turns[0].role == "system":
        system, turns = turns[0].message, turns[1:]
    before = [] if system is None else [system]
    _check_order(turns)
    return [
        [*before, *(turn.message for turn in turns[: at + 1])] for at, turn in enumerate(turns) if turn.role == "user"
    ]


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _turns(row: dict[str, Any]) -> list[_Turn]:
    """The turns of a row by whichever format it is in."""
    lists = [name for name in _TURNS if isinstance(row.get(name), list)]
    if "response" in row and ("prompt" in row or not lists):
        return _pair(_text(row.get("prompt"), "`prompt`"), row, "response")
    if lists:
        name = lists[0]
        return [turn for each in row[name] if (turn := _turn(each, name)) is not None]
    if "instruction" in row or "output" in row:
        parts = [_text(row[name], f"`{name}`") for name in ("instruction", "input") if not _is_blank(row.get(name))]
        return _pair("\n".join(parts) or _text(row.get("instruction"), "`instruction`"), row, "output")
    if "prompt" in row:
        return _pair(_text(row["prompt"], "`prompt`"), row, "response")
    raise BadRowError(_FORMATS)


def _pair(prompt: str, row: dict[str, Any], answer: str) -> list[_Turn]:
    return [
        _Turn("user", prompt),
        _Turn("assistant", _text(row.get(answer), f"`{answer}`")),
    ]


def _turn(turn: Any, name: str) -> _Turn | None:
    """A turn of a list; None for a system turn without text."""
    if not isinstance(turn, dict):
        raise BadRowError(f"a turn of `{name}` that is not an object")
    turn = _present(turn)
    speaker, text = _TURNS.get(name, ("role", "content"))
    if speaker not in turn:
        speaker, text = "role", "content"
    role = _ROLES.get(str(turn.get(speaker)).lower())
    if role is None:
        raise BadRowError(f"a turn by {turn.get(speaker)!r}")
    if role == "system" and _is_blank(turn.get(text)):
        return None
    for call in _CALLS:
        if turn.get(call):
            raise BadRowError(f"a turn with `{call}`")
    weight = turn.get("weight", 1)
    if role == "assistant" and weight not in (0, 1):
        raise BadRowError(f"a turn of weight {weight!r}; weights are 0 and 1")
    return _Turn(role, _text(turn.get(text), f"a turn of `{name}`"), labelled=weight != 0)


def _history(history: Any) -> list[_Turn]:
    """Earlier turns of a `history` column: `[question, answer]` pairs, or messages."""
    turns: list[_Turn | None] = []
    for each in history if isinstance(history, list) else [history]:
        if isinstance(each, list) and len(each) == 2:
            for role, text in zip(("user", "assistant"), each, strict=True):
                turns.append(_Turn(role, _text(text, "`history`")))
        elif isinstance(each, dict):
            turns.append(_turn(each, "history"))
        elif not _is_blank(each):
            raise BadRowError("`history` that is not a list of [question, answer] pairs or messages")
    return [turn._replace(labelled=False) for turn in turns if turn is not None]


def _system(row: dict[str, Any]) -> Message | None:
    """The system message of the columns for it."""
    texts = {_text(row[name], f"`{name}`") for name in _SYSTEM if name in row and not _is_blank(row[name])}
    if len(texts) > 1:
        raise BadRowError("different texts in `system` and `system_prompt`")
    return {"role": "system", "content": texts.pop()} if texts else None


def _tools(row: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """The tools of a row: a list, or the JSON text of one."""
    if row.get("functions"):
        raise BadRowError("`functions`, which are not read; give them as `tools`")
    tools = None if _is_blank(row.get("tools")) else row["tools"]
    try:
        tools = json.loads(tools) if isinstance(tools, str) else tools
    except (ValueError, RecursionError):
        raise BadRowError("`tools` that are not a list of objects") from None
    if not tools:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRowError("`tools` that are not a list of objects")
    return tuple(_without_nulls(tools))


def _without_nulls(value: Any) -> Any:
    """A value without the null fields that `datasets` puts into objects of mixed schemas."""
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _is_blank(text: Any) -> bool:
    return text is None or (isinstance(text, str) and not text.strip())


def _text(content: Any, where: str) -> str:
    """A text, or OpenAI's text parts of a message joined."""
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        content = None if None in parts else "".join(map(str, parts))
    if not isinstance(content, str):
        raise BadRowError(f"no text in {where}")
    if not content.strip():
        raise BadRowError(f"empty text in {where}")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise BadRowError(f"half a surrogate pair in {where}") from None
    return content


def _check_order(turns: Sequence[_Turn]) -> None:
    """Raise a BadRowError unless user and assistant take turns."""
    for number, turn in enumerate(turns):
        expected = ("user", "assistant")[number % 2]
        if turn.role != expected:
            raise BadRowError(
                "a conversation that begins with the assistant"
                if number == 0 and turn.role == "assistant"
                else f"two turns in a row by the {turn.role}"
            )


def _labelled(turns: Sequence[_Turn]) -> list[int]:
    """Indices of the answers that are labels, in turns that alternate between user and assistant."""
    _check_order(turns)
    answers = range(1, len(turns), 2)
    if not answers:
        raise BadRowError("a conversation without an answer")
    labelled = [at for at in answers if turns[at].labelled]
    if not labelled:
        raise BadRowError("a conversation whose answers all have weight 0")
    return labelled
