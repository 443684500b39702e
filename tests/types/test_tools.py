"""Tools and tool calls: comparison, and validation of calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelport.errors import InvalidToolCall
from modelport.inputs.tools import tools_from
from modelport.types.messages import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction
from modelport.types.tools import check_calls
from tests.inputs.tool_examples import (
    forecast,
    get_weather,
)

TOOLS = tools_from([get_weather, {"name": "time"}])


def message_with_call(name: str, arguments: Any) -> ChatMessage:
    return ChatMessage("assistant", None, [ChatMessageToolCall(ChatMessageToolCallFunction(arguments, name), "c1")])


def test_check_calls_valid_calls_pass() -> None:
    check_calls(message_with_call("get_weather", {"city": "Paris"}), TOOLS)
    check_calls(ChatMessage("assistant", "no call"), TOOLS)


@pytest.mark.parametrize(
    ("name", "arguments", "error_text", "text"),
    [
        ("get_weather", '{"city": "Par', "no valid JSON", '{"city": "Par'),
        ("get_weather", {"city": 5}, r"at \$\.city: 5 is not of type 'string'", '{"city": 5}'),
        ("get_weather", None, "None is not of type 'object'", "null"),
        ("moon", {}, "there is no such tool; there are 'get_weather', 'time'", "{}"),
    ],
)
def test_check_calls_invalid_call_raises_with_raw_arguments(
    name: str, arguments: Any, error_text: str, text: str
) -> None:
    message = message_with_call(name, arguments)
    with pytest.raises(InvalidToolCall, match=error_text) as raised:
        check_calls(message, TOOLS)
    assert (raised.value.text, raised.value.partial) == (text, message)


@pytest.mark.parametrize("make", [lambda: TOOLS, lambda: tools_from([forecast])])
def test_tools_are_compared_by_value(make: Callable[[], Any]) -> None:
    assert make() == make()
