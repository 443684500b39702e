"""Reads tool calls that a model wrote as text, for agents that don't use the tool calls of a backend."""

from __future__ import annotations

import json
import uuid
from typing import Any

from modelport.errors import InvalidToolCall
from modelport.schema.json_text import read_json
from modelport.types.messages import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction


def find_tool_call(message: ChatMessage, name_key: str, arguments_key: str) -> ChatMessageToolCall:
    """Return the first JSON object in the message's text that has a string under `name_key`, as a tool call.

    Args:
        message: The message. Its text may have other text before and after the object.
        name_key: The object's key for the tool's name.
        arguments_key: The object's key for the arguments.

    Raises:
        InvalidToolCall: The text has no such object.
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
        partial=message if isinstance(message, ChatMessage) else None,
    )


def parse_arguments(arguments: Any) -> Any:
    """Return the value of JSON text, an empty dict for `None`, and anything else unchanged."""
    if isinstance(arguments, str):
        try:
            return read_json(arguments)
        except ValueError:
            return arguments
    return {} if arguments is None else arguments
