"""Responses of a row, by its columns and turns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from medusa_apar.train.rows.bad_rows import BadRowError, BadRows
from medusa_apar.train.rows.conversations import Response, responses
from medusa_apar.train.rows.responses import read_responses

HISTORY = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
)
CONVERSATION = [Response("Hi", "Hello.", HISTORY[:1]), Response("Bye", "See you.", HISTORY)]
TEXTS = ("Be brief.", "Hi", "Hello.", "Bye", "See you.")
PAIR = {"prompt": "Bye", "response": "See you."}
DIALOGUE = {"messages": [{"role": "user", "content": "Bye"}, {"role": "assistant", "content": "See you."}]}
TOOL = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}


def conversation(name: str, role: str, content: str, *roles: str) -> dict[str, Any]:
    return {name: [{role: named, content: text} for named, text in zip(roles, TEXTS, strict=True)]}


FORMATS = {
    "OpenAI": conversation("messages", "role", "content", "system", "user", "assistant", "user", "assistant"),
    "developer": conversation("messages", "role", "content", "developer", "user", "assistant", "user", "assistant"),
    "ShareGPT": conversation("conversations", "from", "value", "system", "human", "gpt", "human", "gpt"),
    "FastChat": conversation("conversations", "role", "content", "system", "user", "assistant", "user", "assistant"),
}


def refused(row: Any) -> str:
    with pytest.raises(BadRowError) as error:
        responses(row, "f:1")
    return str(error.value)


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS.keys())
def test_every_answer_of_a_conversation_is_a_response(row: dict[str, Any]) -> None:
    found = responses(row, "f:1")
    assert found == CONVERSATION
    assert [each.place for each in found] == ["f:1", "f:1"]


def test_a_question_is_all_that_comes_before_the_answer() -> None:
    assert CONVERSATION[1].question == [*HISTORY, {"role": "user", "content": "Bye"}]


@pytest.mark.parametrize("name", ["system", "system_prompt"])
@pytest.mark.parametrize("row", [PAIR, DIALOGUE, {"instruction": "Bye", "output": "See you."}])
def test_a_system_column_is_the_system_message(name: str, row: dict[str, Any]) -> None:
    assert responses({**row, name: "Be brief."}, "f:1") == [Response("Bye", "See you.", HISTORY[:1])]
    for absent in (None, "", " \n"):
        assert responses({**row, name: absent}, "f:1") == [Response("Bye", "See you.")]
    assert refused({**row, name: 3}) == f"no text in `{name}`"


def test_a_system_turn_takes_the_place_of_the_column() -> None:
    assert responses({**FORMATS["ShareGPT"], "system": "Be long."}, "f:1") == CONVERSATION
    turns = [{"role": "system", "content": None}, *DIALOGUE["messages"]]
    assert responses({"messages": turns, "system": "Be brief."}, "f:1")[0].history == HISTORY[:1]


def test_system_columns_that_contradict_each_other_are_refused() -> None:
    assert responses({**PAIR, "system": "Be brief.", "system_prompt": "Be brief."}, "f:1")[0].history == HISTORY[:1]
    assert refused({**PAIR, "system": "a", "system_prompt": "b"}) == "different texts in `system` and `system_prompt`"


@pytest.mark.parametrize(
    "history",
    [[["Hi", "Hello."]], [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]],
    ids=["pairs", "messages"],
)
@pytest.mark.parametrize("row", [PAIR, DIALOGUE])
def test_history_is_context_and_no_label(history: Any, row: dict[str, Any]) -> None:
    found = responses({**row, "history": history, "system": "Be brief."}, "f:1")
    assert found == [Response("Bye", "See you.", HISTORY)]


@pytest.mark.parametrize("history", [None, [], ""])
def test_empty_history_is_absent(history: Any) -> None:
    assert responses({**PAIR, "history": history}, "f:1") == [Response("Bye", "See you.")]


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        ("Hi", "`history` that is not a list of [question, answer] pairs or messages"),
        ([["Hi"]], "`history` that is not a list of [question, answer] pairs or messages"),
        ([["Hi", None]], "no text in `history`"),
        ([["Hi", " "]], "empty text in `history`"),
        ([{"role": "user", "content": "Hi"}], "two turns in a row by the user"),
        ([{"role": "tool", "content": "Hi"}], "a turn by 'tool'"),
    ],
)
def test_malformed_history_is_refused(history: Any, reason: str) -> None:
    assert refused({**PAIR, "history": history}) == reason


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"instruction": "Add.", "input": "1, 2"}, "Add.\n1, 2"),
        ({"instruction": "Add.", "input": " "}, "Add."),
        ({"instruction": "Add.", "input": None}, "Add."),
        ({"instruction": "Add."}, "Add."),
        ({"instruction": "", "input": "1, 2"}, "1, 2"),
    ],
)
def test_instruction_and_input_are_a_prompt(row: dict[str, Any], prompt: str) -> None:
    assert responses({**row, "output": "3", "prompt": None}, "f:1") == [Response(prompt, "3")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "Add.", "input": 3, "output": "3"}, "no text in `input`"),
        ({"instruction": "Add."}, "no text in `output`"),
        ({"output": "3"}, "no text in `instruction`"),
        ({"instruction": " ", "output": "3"}, "empty text in `instruction`"),
        ({"prompt": "a"}, "no text in `response`"),
        ({"prompt": "a", "response": 3}, "no text in `response`"),
        ({"prompt": "a", "response": "\n"}, "empty text in `response`"),
        ({"prompt": "a", "response": "\ud83d"}, "half a surrogate pair in `response`"),
        ({"prompt": None, "response": "a"}, "no text in `prompt`"),
        ({"messages": [{"role": "user", "content": "\udc00"}]}, "half a surrogate pair in a turn of `messages`"),
        ({"messages": ["a"]}, "a turn of `messages` that is not an object"),
        *(
            (row, "none of `prompt` and `response`, `messages`, `conversations`, `instruction` and `output`")
            for row in ([], None, "a", {}, {"text": "a"}, {"messages": "a"}, {"prompt": None, "messages": None})
        ),
    ],
)
def test_rows_without_what_they_need_are_refused(row: Any, reason: str) -> None:
    assert refused(row) == reason


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL])], ids=["list", "text"])
@pytest.mark.parametrize("row", [PAIR, DIALOGUE])
def test_tools_stay_with_the_response(tools: Any, row: dict[str, Any]) -> None:
    assert responses({**row, "tools": tools}, "f:1") == [Response("Bye", "See you.", tools=(TOOL,))]


@pytest.mark.parametrize("tools", [None, [], "", " ", "[]", "null"])
def test_empty_tools_are_absent(tools: Any) -> None:
    assert responses({**PAIR, "tools": tools}, "f:1") == [Response("Bye", "See you.")]


@pytest.mark.parametrize("tools", ["clock", "[", "{}x", {"name": "clock"}, ["clock"], 3, '["clock"]'])
def test_malformed_tools_are_refused(tools: Any) -> None:
    assert refused({**PAIR, "tools": tools}) == "`tools` that are not a list of objects"


def test_what_calls_tools_is_refused_by_name() -> None:
    asked, answer = DIALOGUE["messages"]
    for name in ("tool_calls", "function_call"):
        assert responses({"messages": [asked, {**answer, name: None}]}, "f:1") == [Response("Bye", "See you.")]
        for content in ("See you.", None):
            row = {"messages": [asked, {"role": "assistant", "content": content, name: [{"name": "clock"}]}]}
            assert refused(row) == f"a turn with `{name}`"
    assert refused({**DIALOGUE, "functions": [TOOL]}) == "`functions`, which are not read; give them as `tools`"


WEIGHTED = [("Hi", "Hello.", 0), ("Bye", "See you.", 1)]


@pytest.mark.parametrize("off", [0, 0.0, False])
@pytest.mark.parametrize("on", [1, 1.0, True, None])
@pytest.mark.parametrize(
    ("name", "role", "content", "roles"),
    [("messages", "role", "content", ("user", "assistant")), ("conversations", "from", "value", ("human", "gpt"))],
)
def test_an_answer_of_weight_0_is_context_and_no_label(
    off: Any, on: Any, name: str, role: str, content: str, roles: tuple[str, str]
) -> None:
    turns = [{role: each, content: text} for each, text in zip(roles * 2, TEXTS[1:], strict=True)]
    turns[1]["weight"], turns[3]["weight"] = off, on
    assert responses({name: turns}, "f:1") == [Response("Bye", "See you.", HISTORY[1:])]
    turns[3]["weight"] = off
    assert refused({name: turns}) == "a conversation whose answers all have weight 0"


@pytest.mark.parametrize("weight", [2, 0.5, -1, "0", [], float("nan")])
def test_other_weights_are_refused(weight: Any) -> None:
    asked, answer = DIALOGUE["messages"]
    row = {"messages": [asked, {**answer, "weight": weight}]}
    assert refused(row) == f"a turn of weight {weight!r}; weights are 0 and 1"


def test_a_null_is_absent_in_rows_and_turns() -> None:
    nothing = {"prompt": None, "response": None, "instruction": None, "output": None, "system": None}
    turns = [
        {"from": None, "value": None, "role": "user", "content": "Bye", "weight": None},
        {"from": "gpt", "value": "See you.", "role": None, "content": None, "tool_calls": None},
    ]
    assert responses({**nothing, "messages": None, "conversations": turns}, "f:1") == [Response("Bye", "See you.")]
    assert responses({**nothing, "messages": turns[:1] + DIALOGUE["messages"][1:], "conversations": None}, "f:1") == [
        Response("Bye", "See you.")
    ]


def test_a_saved_dataset_of_mixed_schemas_is_read(tmp_path: Path) -> None:
    asked, answer = DIALOGUE["messages"]
    rows = [
        PAIR,
        DIALOGUE,
        {"conversations": [{"from": "human", "value": "Bye"}, {"from": "gpt", "value": "See you."}], "score": 1.5},
        {"instruction": "Bye", "output": "See you.", "history": [["Hi", "Hello."]], "system": "Be brief."},
        {"messages": [asked, {**answer, "weight": 0}, {**asked, "name": "me"}, {**answer, "weight": 1}]},
        {**PAIR, "tools": [TOOL, {"type": "function", "function": {"name": "dice", "description": "rolls"}}]},
    ]
    columns = {name for row in rows for name in row}
    Dataset.from_dict({name: [row.get(name) for row in rows] for name in columns}).save_to_disk(tmp_path / "saved")
    bad_rows = BadRows()
    found = list(read_responses(tmp_path / "saved", bad_rows))
    assert not bad_rows.counts
    assert [(each.prompt, each.response) for each in found] == [("Bye", "See you.")] * 6
    assert found[3].history == HISTORY
    assert len(found[4].history) == 2
    assert [tool["function"]["name"] for tool in found[5].tools] == ["clock", "dice"]
    assert "parameters" not in found[5].tools[1]["function"], "a null that `datasets` adds"


def test_messages_may_come_in_parts() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}]
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": parts}]
    assert responses({"messages": turns}, "f:1") == [Response("Hi", "Hello.")]
    assert refused({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}) == (
        "no text in a turn of `messages`"
    )


@pytest.mark.parametrize(
    ("roles", "reason"),
    [
        (["gpt", "human"], "a conversation that begins with the assistant"),
        (["human", "human", "gpt"], "two turns in a row by the user"),
        (["human", "gpt", "gpt"], "two turns in a row by the assistant"),
        (["human"], "a conversation without an answer"),
        (["system"], "a conversation without an answer"),
        ([], "a conversation without an answer"),
        (["human", "tool"], "a turn by 'tool'"),
        (["human", None], "a turn by None"),
    ],
)
def test_conversations_out_of_order_are_refused(roles: list[str], reason: str) -> None:
    assert refused({"conversations": [{"from": role, "value": "text"} for role in roles]}) == reason


def test_a_question_that_nobody_answers_is_left_out() -> None:
    turns = [{"from": role, "value": role} for role in ("human", "gpt", "human")]
    assert responses({"conversations": turns}, "f:1") == [Response("human", "gpt")]


def test_a_conversation_with_its_first_prompt_beside_it_is_a_conversation() -> None:
    """As in UltraChat-200k and No-Robots."""
    assert responses({"prompt": "Bye", "prompt_id": "7", **DIALOGUE}, "f:1") == [Response("Bye", "See you.")]
