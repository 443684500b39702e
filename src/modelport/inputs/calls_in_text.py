"""Reads tool calls that a model wrote as JSON text, for agents that describe their tools in the prompt."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

from modelport.errors import InvalidToolCall
from modelport.schema.json_text import MAX_JSON_DEPTH, is_nested_too_deeply, json_size_problem, read_json
from modelport.types.content import text_of
from modelport.types.messages import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction

#: How an object with a key begins.
_OBJECT_START = re.compile(r'\{\s*+"')
#: How many characters may be parsed in vain until the search goes on behind what was parsed, and not inside of it.
_MAX_PARSED_IN_VAIN = 2**20
#: How many attempts to parse an object may fail. Each takes some microseconds.
_MAX_FAILURES = 10_000


class _Text(str):
    """A text of which `JSONDecodeError` does not count the lines: it would do that again for each mistake."""

    def count(self, *_: Any) -> int:
        return 0

    rfind = count


def find_tool_call(message: ChatMessage, name_key: str, arguments_key: str) -> ChatMessageToolCall:
    """Return the tool call that a message's text contains: the first JSON object with a string under `name_key`.

    Args:
        message: The message. It may have other text before and after the object.
        name_key: The key in the object under which the tool's name is.
        arguments_key: The key in the object under which the arguments are.

    Raises:
        InvalidToolCall: The text contains no such object, or is too large to be searched.
    """
    text = text_of(message.content)  # A message object of another library has no `text`.
    problem = json_size_problem(text)
    value = None if problem is not None else _first_object(_Text(text), name_key)
    if is_nested_too_deeply(value):
        value, problem = None, f"the JSON is nested more than {MAX_JSON_DEPTH} levels deep"
    if value is None:
        reason = f"no JSON object with {name_key!r}" if problem is None else problem
        raise InvalidToolCall(
            f"The message holds no tool call: {reason} in {text[:200]!r}",
            text=text,
            # `partial` is documented as a `ChatMessage`, but agents may pass a message object of their own library.
            partial=message if isinstance(message, ChatMessage) else None,
        )
    function = ChatMessageToolCallFunction(parse_arguments(value.get(arguments_key)), value[name_key])
    return ChatMessageToolCall(function, f"call_{uuid.uuid4().hex[:24]}")


def _first_object(text: _Text, name_key: str) -> dict[str, Any] | None:
    """Return the first JSON object in the text that has a string under `name_key`, or `None` if there is none.

    The time is linear in the length of the text, whatever the text is. After too many failures, the search ends.
    """
    decoder, position, parsed_in_vain, failures = json.JSONDecoder(), 0, 0, 0
    while failures < _MAX_FAILURES and (match := _OBJECT_START.search(text, position)) is not None:
        start = match.start()
        try:
            value: dict[str, Any]
            value, position = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            # It is not known where the other errors occurred. Behind a string without an end, there is no other string.
            is_known = isinstance(error, json.JSONDecodeError) and not error.msg.startswith("Unterminated string")
            mistake = error.pos if is_known else len(text)  # type: ignore[union-attr]
            failures += 1
            parsed_in_vain += mistake - start
            position = start + 1 if parsed_in_vain <= _MAX_PARSED_IN_VAIN else max(start + 1, mistake)
            continue
        if isinstance(value.get(name_key), str):
            return value
    return None


def parse_arguments(arguments: Any) -> Any:
    """Return the value of JSON text, `{}` for `None` and `null`, and anything else (such as other text) unchanged."""
    if isinstance(arguments, str):
        try:
            arguments = read_json(arguments)
        except ValueError:
            return arguments
    return {} if arguments is None else arguments
