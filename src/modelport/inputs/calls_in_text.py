"""Reads tool calls that a model wrote as JSON text, for agents that describe their tools in the prompt."""

from __future__ import annotations

import json
import uuid
from typing import Any

from modelport.errors import InvalidToolCall
from modelport.schema.json_text import read_json
from modelport.types.messages import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction


def find_tool_call(message: ChatMessage, name_key: str, arguments_key: str) -> ChatMessageToolCall:
    """Return the tool call that a message's text contains: the first JSON object with a string under `name_key`.

    Args:
        message: The message. It may have other text before and after the object.
        name_key: The key in the object under which the tool's name is.
        arguments_key: The key in the object under which the arguments are.

    Raises:
        InvalidToolCall: The text contains no such object.
    """
    text, decoder, start = message.text, json.JSONDecoder(), 0
    while (start := text.find("{", start)) >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start += 1
            continue
        if isinstance(value, dict) and isinstance(value.get(name_key), str):
            function = ChatMessageToolCallFunction(parse_arguments(value.get(arguments_key)), value[name_key])
            return ChatMessageToolCall(function, f"call_{uuid.uuid4().hex[:24]}")
        start = end
    raise InvalidToolCall(
        f"The message holds no tool call: no JSON object with {name_key!r} in {text[:200]!r}",
        text=text,
        # `partial` is documented as a `ChatMessage`, but agents may pass a message object of their own library.
        partial=message if isinstance(message, ChatMessage) else None,
    )


def parse_arguments(arguments: Any) -> Any:
    """Return the value of JSON text, `{}` for `None` and `null`, and anything else (such as other text) unchanged."""
    if isinstance(arguments, str):
        try:
            arguments = read_json(arguments)
        except ValueError:
            return arguments
    return {} if arguments is None else arguments
