"""Histories written by hand or taken from a log, whose tool calls or results have no IDs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelport.errors import InvalidRequest
from modelport.inputs.messages import normalise_messages
from modelport.protocols.chat_completions.request import body_from
from modelport.protocols.converse.request import converse_call_from
from modelport.protocols.responses.items import input_items
from modelport.types.capabilities import Capabilities
from modelport.types.messages import ChatMessage
from modelport.types.request import Request
from modelport.types.tools import Tool

MISSING = object()


def call(name: str = "f", call_id: Any = MISSING) -> dict[str, Any]:
    result: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": "{}"}}
    return result if call_id is MISSING else {**result, "id": call_id}


def asks(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def says(text: str, call_id: Any = MISSING, name: str | None = None) -> dict[str, Any]:
    result = {"role": "tool", "content": text} | ({} if name is None else {"name": name})
    return result if call_id is MISSING else {**result, "tool_call_id": call_id}


def normalise(*messages: Any) -> tuple[ChatMessage, ...]:
    return normalise_messages([{"role": "user", "content": "?"}, *messages])


def results_of(*messages: Any) -> dict[str, str]:
    """Return the tool and the position of each call -> the text of its result."""
    normalised = normalise(*messages)
    calls = [call for message in normalised for call in message.tool_calls or ()]
    ids = [call.id for call in calls]
    assert all(ids) and len(set(ids)) == len(ids)
    texts = {message.tool_call_id: message.text for message in normalised if message.role == "tool"}
    assert texts.keys() <= set(ids)
    return {f"{call.function.name}{i}": texts[call.id] for i, call in enumerate(calls) if call.id in texts}


@pytest.mark.parametrize("result_id", ["", None, MISSING], ids=["empty", "null", "missing"])
@pytest.mark.parametrize("call_id", ["", None, MISSING, "c1"], ids=["empty", "null", "missing", "given"])
def test_only_call_and_its_result_get_the_same_id(call_id: Any, result_id: Any) -> None:
    assert results_of(asks(call("f", call_id)), says("1", result_id)) == {"f0": "1"}


CERTAIN = {
    "by name": ([asks(call("f"), call("g")), says("2", name="g"), says("1", name="f")], {"f0": "1", "g1": "2"}),
    "the other one": ([asks(call("f"), call("g")), says("2", name="g"), says("1")], {"f0": "1", "g1": "2"}),
    "some IDs": ([asks(call("f", "a"), call("f")), says("1", "a"), says("2")], {"f0": "1", "f1": "2"}),
    "ID in the result alone": ([asks(call("f")), says("1", "xyz")], {"f0": "1"}),
    "IDs in the results alone": (
        [asks(call("f"), call("g")), says("2", "y", "g"), says("1", "x", "f")], {"f0": "1", "g1": "2"}
    ),
    "two turns": ([asks(call()), says("1"), asks(call()), says("2")], {"f0": "1", "f1": "2"}),
    "a turn without its result": (
        [asks(call("f"), call("g")), says("1", name="f"), asks(call("h")), says("2")], {"f0": "1", "h2": "2"}
    ),
    "a call in a message of its own": ([asks(call("f")), asks(call("g")), says("2", name="g"), says("1")],
                                       {"f0": "1", "g1": "2"}),
    "another name": ([asks(call("f")), says("1", name="some label")], {"f0": "1"}),
    "no result": ([asks(call("f", ""), call("g"))], {}),
}  # fmt: skip


@pytest.mark.parametrize(("messages", "expected"), CERTAIN.values(), ids=CERTAIN)
def test_result_belongs_to_the_call_that_it_must_belong_to(messages: list[Any], expected: dict[str, str]) -> None:
    assert results_of(*messages) == expected


UNCERTAIN = {
    "two calls of one tool": (
        [asks(call(), call()), says("1"), says("2")],
        r"messages\[2\]: a 'tool' message needs the 'tool_call_id'.*messages\[1\]\['tool_calls'\]\[0\] and "
        r"messages\[1\]\['tool_calls'\]\[1\]; give each",
    ),
    "two calls of the named tool": ([asks(call(), call(), call("g")), says("1", name="f")], r"\[0\] and .*\[1\];"),
    "no name": ([asks(call("f"), call("g")), says("1")], r"messages\[2\].*give each of them an 'id'"),
    "ID that no call has": ([asks(call("f"), call("g")), says("1", "x")], r"messages\[2\].*could be the result of"),
    "more results than calls": ([asks(call()), says("1"), says("2")], r"messages\[3\].*no call before it waits"),
    "another tool": ([asks(call("f"), call("g")), says("1", name="h")], r"no call before it .*of the tool 'h'"),
    "no call": ([says("1", name="f")], r"messages\[1\].*no call before it"),
}


@pytest.mark.parametrize(("messages", "text"), UNCERTAIN.values(), ids=UNCERTAIN)
def test_result_that_may_belong_to_several_calls_is_refused(messages: list[Any], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        normalise(*messages)


def test_ids_are_the_same_in_every_later_request_and_given_ones_stay() -> None:
    history = [asks(call(), call("g", "mine")), says("2", "mine"), says("1")]
    first, second = normalise(*history), normalise(*history, asks(call()), says("3"))
    assert second[: len(first)] == first
    assert [call.id for call in first[1].tool_calls or ()][1] == "mine"
    unchanged = normalise(asks(call(call_id="c1")), says("1", "c1"), says("2", "of another"))
    assert [message.tool_call_id for message in unchanged] == [None, None, "c1", "of another"]


def test_every_wire_format_has_the_ids() -> None:
    messages = normalise(asks(call("f"), call("g", "")), says("2", None, "g"), says("1"))
    tool = Tool("f", "", {"type": "object", "properties": {}})
    request = Request(messages, tools=(tool,), capabilities=Capabilities(tools=True))
    ids = [call.id for call in messages[1].tool_calls or ()]
    chat = body_from(request, "m")["messages"]
    assert [entry["id"] for entry in chat[1]["tool_calls"]] == ids
    assert [message["tool_call_id"] for message in chat[2:]] == ids[::-1]
    for text in (json.dumps(converse_call_from(request, "m").arguments), json.dumps(list(input_items(messages)))):
        assert [text.count(f'"{one}"') for one in ids] == [2, 2]
