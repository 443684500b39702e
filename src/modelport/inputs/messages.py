"""From every form in which callers write messages and parameters to the one that `Request` holds.

Pure functions; what they are given is never changed. A mistake is named by its place before anything is sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from modelport.errors import InvalidRequest
from modelport.inputs.parts import fail, part_from
from modelport.types.content import Part, Text
from modelport.types.messages import (
    ChatMessage,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    MessageRole,
    tool_call_from,
)

_ROLES = {role.value: role for role in MessageRole} | {"developer": MessageRole.SYSTEM}
_PLAIN_KEYS = {"role", "content"}
_PLAIN_ROLES = {name: _ROLES[name] for name in ("system", "developer", "user", "assistant")}
_INPUT_KEYS = {
    "role", "content", "tool_calls", "tool_call_id", "name", "reasoning", "reasoning_content", "reasoning_details",
}  # fmt: skip
#: What answers carry and callers send back with them; it means nothing to a model.
_OUTPUT_KEYS = {
    "refusal", "annotations", "audio", "function_call", "token_usage", "finish_reason", "stop_sequence", "parsed",
    "enforcement", "logprobs", "model_id", "warnings", "raw", "attempts",
}  # fmt: skip


def normalise_messages(
    messages: Any, *, role_conversions: Mapping[str, str] | None = None, flatten: bool = False
) -> tuple[ChatMessage, ...]:
    """The conversation in normal form.

    Args:
        messages: A string, a message, or a list of messages: `ChatMessage`s, dicts of OpenAI's or transformers' form,
            or message objects of other libraries, mixed.
        role_conversions: Roles to take for others, as `{"system": "user"}`.
        flatten: Whether to write each message's parts as one text.

    Raises:
        InvalidRequest: A message is malformed; the error names its index and key.
    """
    if isinstance(messages, str):
        _check_text(messages, "messages")
        return (ChatMessage(MessageRole.USER, messages),)
    if isinstance(messages, Mapping) or hasattr(messages, "role"):
        messages = [messages]
    if not isinstance(messages, Iterable) or isinstance(messages, bytes):
        raise InvalidRequest(f"messages must be a string or a list of messages, not {type(messages).__name__}")
    conversions = normalise_conversions(role_conversions) if role_conversions else {}
    result = tuple(_message(m, f"messages[{i}]", conversions, flatten) for i, m in enumerate(messages))
    if not result:
        raise InvalidRequest("messages is empty: a model needs at least one message to answer")
    return result


def _message(message: Any, place: str, conversions: Mapping[str, str], flatten: bool) -> ChatMessage:
    if type(message) is dict and message.keys() == _PLAIN_KEYS and not conversions:
        # As most are: an agent's history holds many, and all are looked at in each of its calls.
        plain, text = message["role"], message["content"]
        if type(text) is str and type(plain) is str and plain in _PLAIN_ROLES:
            _check_text(text, f"{place}['content']")
            return ChatMessage(_PLAIN_ROLES[plain], text)
    if isinstance(message, Mapping):
        for key, value in message.items():
            if key not in _INPUT_KEYS and key not in _OUTPUT_KEYS and value is not None:
                fail(place, f"unknown key {key!r}; a message has {', '.join(sorted(_INPUT_KEYS))}")
        get: Callable[[str], Any] = message.get
    elif hasattr(message, "role"):
        get = lambda key: getattr(message, key, None)  # noqa: E731
    else:
        fail(place, f"must be a dict or a ChatMessage, not {type(message).__name__}")
    given = _value(get("role"))
    role = _ROLES.get(conversions.get(given, given)) if isinstance(given, str) else None
    if role is None:
        problem = "has no 'role'" if given is None else f"role {given!r} is unknown"
        fail(place, f"{problem}; it must be one of {', '.join(sorted(_ROLES))}")
    if not isinstance(given_calls := get("tool_calls") or (), Sequence):
        fail(f"{place}['tool_calls']", f"must be a list, not {type(given_calls).__name__}")
    calls = [_call(call, f"{place}['tool_calls'][{i}]") for i, call in enumerate(given_calls)]
    for key in ("name", "tool_call_id", "reasoning", "reasoning_content"):
        if (text := get(key)) is not None and not isinstance(text, str):
            fail(f"{place}[{key!r}]", f"must be a string, not {type(text).__name__}")
    details = get("reasoning_details")
    if details is not None and not (isinstance(details, list | tuple) and all(isinstance(d, Mapping) for d in details)):
        fail(f"{place}['reasoning_details']", "must be a list of dicts, as an answer has it")
    # The agents' roles: a call is the assistant's turn; a result is a tool's where it says whose, else the user's.
    if role == "tool-call":
        role = MessageRole.ASSISTANT
    elif role == "tool-response":
        role = MessageRole.TOOL if get("tool_call_id") else MessageRole.USER
    if role == "tool" and not get("tool_call_id"):
        fail(place, "a 'tool' message needs the 'tool_call_id' of the call that it answers")
    content = _content(get("content"), place, flatten)
    if content is None and not calls and role != "assistant":
        fail(place, "has no 'content'")
    return ChatMessage(
        role,
        content,
        tool_calls=calls or None,
        reasoning=get("reasoning") or get("reasoning_content"),
        tool_call_id=get("tool_call_id"),
        name=get("name"),
        reasoning_details=[dict(detail) for detail in details or ()] or None,
    )


def normalise_conversions(value: Any) -> dict[str, str]:
    """The roles to take for others.

    Raises:
        InvalidRequest: It is no dict of roles.
    """
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"custom_role_conversions must be a dict, not {type(value).__name__}")
    result = {_value(key): _value(role) for key, role in value.items()}
    for given, role in result.items():
        if not isinstance(given, str) or not isinstance(role, str) or role not in _ROLES:
            raise InvalidRequest(
                f"custom_role_conversions: {given!r} becomes {role!r}; it must be one of {', '.join(sorted(_ROLES))}"
            )
    return result


def _call(given: Any, place: str) -> ChatMessageToolCall:
    """A call of the conversation, its arguments as JSON text, so that what JSON can't hold is found here."""
    try:
        call = tool_call_from(given)
    except ValueError as error:
        fail(place, str(error))
    function, where = call.function, f"{place}['function']['arguments']"
    if isinstance(function.arguments, str):
        return call
    try:
        text = json.dumps(function.arguments, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        fail(where, f"can't be written as JSON ({error}): write it as JSON text, or in types that JSON has")
    _check_text(text, where)
    return ChatMessageToolCall(ChatMessageToolCallFunction(text, function.name, function.description), call.id)


def _check_text(text: str, place: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        fail(place, f"holds {text[error.start]!r}, half of a surrogate pair and no character: leave it out")


def _content(content: Any, place: str, flatten: bool) -> str | tuple[Part, ...] | None:
    if content is None:
        return None
    if isinstance(content, str):
        _check_text(content, f"{place}['content']")
        return content
    if isinstance(content, (Part, Mapping)) or not isinstance(content, Sequence):
        fail(f"{place}['content']", f"must be a string or a list of parts, not {type(content).__name__}")
    parts = tuple(part_from(part, f"{place}['content'][{i}]") for i, part in enumerate(content))
    if not parts:
        return ""
    for i, part in enumerate(parts):
        if isinstance(part, Text):
            _check_text(part.text, f"{place}['content'][{i}]['text']")
    if not flatten:
        alone = parts[0] if len(parts) == 1 else None
        return alone.text if isinstance(alone, Text) and alone.cache_control is None else parts
    for i, part in enumerate(parts):
        if not isinstance(part, Text):
            fail(f"{place}['content'][{i}]", f"{part.kind} can't be flattened; drop flatten_messages_as_text")
    return "\n".join(part.text for part in parts if isinstance(part, Text))


def _value(item: Any) -> Any:
    """The plain value of an Enum member (this library's or another's)."""
    return getattr(item, "value", item)


# --- parameters -------------------------------------------------------------------------------------------------------
