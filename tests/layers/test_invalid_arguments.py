"""Arguments of earlier tool calls that are no JSON object are sent as one."""

from __future__ import annotations

import json

import pytest

from modelport import ChatMessage, Request
from modelport.layers.adapt.invalid_arguments import with_object_arguments
from modelport.types.messages import ChatMessageToolCall, ChatMessageToolCallFunction

ERROR = "its arguments contain no valid JSON"


def request_with(*arguments: str, error: str | None = None) -> Request:
    calls = [ChatMessageToolCall(ChatMessageToolCallFunction(text, "f"), "c", error=error) for text in arguments]
    return Request((ChatMessage("user", "?"), ChatMessage("assistant", None, calls)))


@pytest.mark.parametrize("text", ['{"a": 1}', ' {"a": 1}\n', "{}"])
@pytest.mark.parametrize("error", [None, ERROR])
def test_objects_are_sent_unchanged(text: str, error: str | None) -> None:
    request = request_with(text, error=error)
    assert with_object_arguments(request) == (request, [])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"a": ', None), ("[1]", None), ('"s"', None), ("s", None), ("5", None), ("{" * 100_000, None),
        ('{"a": 1 "b": 2}', ERROR), ("[" * 100_000, ERROR),
    ],
)  # fmt: skip
def test_other_arguments_become_a_text_in_an_object(text: str, error: str | None) -> None:
    request = request_with('{"a": 1}', text, error=error)
    changed, warnings = with_object_arguments(request)
    first, second = [json.loads(call.function.arguments) for call in changed.messages[1].tool_calls or ()]
    assert (first, second) == ({"a": 1}, {"invalid_arguments": text})
    assert [(warning.type, warning.feature) for warning in warnings] == [("changed", "messages")]
    assert "messages[1]" in warnings[0].text
    assert (request.messages[1].tool_calls or [])[1].function.arguments == text  # The caller's message is unchanged.


@pytest.mark.parametrize("text", ["", " ", "null"])
def test_empty_arguments_become_an_empty_object(text: str) -> None:
    changed, warnings = with_object_arguments(request_with(text))
    assert [call.function.arguments for call in changed.messages[1].tool_calls or ()] == ["{}"]
    assert warnings == []
