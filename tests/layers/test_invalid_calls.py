"""Earlier tool calls with invalid arguments or names are sent in a form that every server accepts."""

from __future__ import annotations

import json

import pytest

from modelport import ChatMessage, Request
from modelport.layers.adapt.invalid_calls import with_valid_calls
from modelport.types.messages import ChatMessageToolCall, ChatMessageToolCallFunction
from modelport.types.tools import Tool

ERROR = "its arguments contain no valid JSON"


def request_with(*arguments: str, error: str | None = None) -> Request:
    calls = [ChatMessageToolCall(ChatMessageToolCallFunction(text, "f"), "c", error=error) for text in arguments]
    return Request((ChatMessage("user", "?"), ChatMessage("assistant", None, calls)))


@pytest.mark.parametrize("text", ['{"a": 1}', ' {"a": 1}\n', "{}"])
@pytest.mark.parametrize("error", [None, ERROR])
def test_objects_are_sent_unchanged(text: str, error: str | None) -> None:
    request = request_with(text, error=error)
    assert with_valid_calls(request) == (request, [])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"a": ', None), ("[1]", None), ('"s"', None), ("s", None), ("5", None), ("{" * 100_000, None),
        ('{"a": 1 "b": 2}', ERROR), ("[" * 100_000, ERROR), ('{"a": NaN}', ERROR), ('{"a": "\\ud83d"}', ERROR),
    ],
)  # fmt: skip
def test_other_arguments_become_a_text_in_an_object(text: str, error: str | None) -> None:
    request = request_with('{"a": 1}', text, error=error)
    changed, warnings = with_valid_calls(request)
    first, second = [json.loads(call.function.arguments) for call in changed.messages[1].tool_calls or ()]
    assert (first, second) == ({"a": 1}, {"invalid_arguments": text})
    assert [(warning.type, warning.feature) for warning in warnings] == [("changed", "messages")]
    assert "messages[1]" in warnings[0].text
    assert (request.messages[1].tool_calls or [])[1].function.arguments == text  # The caller's message is unchanged.


@pytest.mark.parametrize("text", ["", " ", "null"])
def test_empty_arguments_become_an_empty_object(text: str) -> None:
    changed, warnings = with_valid_calls(request_with(text))
    assert [call.function.arguments for call in changed.messages[1].tool_calls or ()] == ["{}"]
    assert warnings == []


@pytest.mark.parametrize(
    ("name", "error", "sent"),
    [
        ("", ERROR, "invalid_call"), ("", None, "invalid_call"), ("look up <b>", ERROR, "look_up__b_"),
        ("x" * 100, ERROR, "x" * 64), ("wetter_für", None, "wetter_f_r"), ("functions.f", ERROR, "functions_f"),
        # Names that a service accepts, as far as anyone knows
        ("f", ERROR, "f"), ("dotted.tool", ERROR, "dotted.tool"), ("functions.f", None, "functions_f"),
    ],
)  # fmt: skip
def test_name_that_servers_refuse_is_changed_and_so_is_that_of_the_result(
    name: str, error: str | None, sent: str
) -> None:
    call = ChatMessageToolCall(ChatMessageToolCallFunction("{}", name), "c", error=error)
    result = ChatMessage("tool", "There is no such tool.", tool_call_id="c", name=name or None)
    messages = (ChatMessage("user", "?"), ChatMessage("assistant", None, [call]), result)
    request = Request(messages, tools=(Tool("dotted.tool", "", {"type": "object"}),))
    changed, warnings = with_valid_calls(request)
    assert [call.function.name for call in changed.messages[1].tool_calls or ()] == [sent]
    assert changed.messages[2].name == (sent if name else None)
    assert [warning.type for warning in warnings] == ["changed"] * (sent != name)
    assert call.function.name == name  # The caller's message is unchanged.


def test_name_in_a_request_without_tools_may_be_that_of_another_service() -> None:
    call = ChatMessageToolCall(ChatMessageToolCallFunction("{}", "functions.f"), "c")
    request = Request((ChatMessage("user", "?"), ChatMessage("assistant", None, [call])))
    assert with_valid_calls(request) == (request, [])
