"""Converts the messages that callers write to `ChatMessage`s in the one form that `Request.messages` has.

The functions never change their arguments. Every error names the path of the wrong value, such as
`messages[2]['content'][0]`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from modelport.errors import InvalidRequest
from modelport.inputs.call_ids import with_call_ids
from modelport.inputs.merging import merge
from modelport.inputs.parts import part_from, refuse
from modelport.schema.json_text import excerpt
from modelport.types.content import Part, Text
from modelport.types.messages import (
    ChatMessage,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    MessageRole,
    tool_call_from,
)
from modelport.types.provider_data import (
    MESSAGE_FIELDS,
    ProviderData,
    provider_data_from,
    reasoning_parts_of,
    reasoning_text_of,
)

_ROLES = {role.value: role for role in MessageRole} | {"developer": MessageRole.SYSTEM}
#: The keys and roles of simple messages: `_message_from` converts them in a faster way if the content is a string.
_SIMPLE_KEYS = {"role", "content"}
_SIMPLE_ROLES = {name: _ROLES[name] for name in ("system", "developer", "user", "assistant")}
_INPUT_KEYS = {
    "role", "content", "tool_calls", "tool_call_id", "name", "reasoning", "provider_data", *MESSAGE_FIELDS,
}  # fmt: skip
#: Keys that only responses have. Callers often send a response back as a message; these keys are then dropped.
_OUTPUT_KEYS = {
    "refusal", "annotations", "audio", "function_call", "token_usage", "finish_reason", "stop_sequence", "parsed",
    "enforcement", "logprobs", "model_id", "warnings", "raw", "attempts",
}  # fmt: skip


def normalise_messages(
    messages: Any, *, role_conversions: Mapping[str, str] | None = None, flatten: bool = False
) -> tuple[ChatMessage, ...]:
    """Return the conversation as `ChatMessage`s whose contents and tool calls have been checked and converted.

    Args:
        messages: A string (the text of one user message), a message, or a list of messages. A message can be a
            `ChatMessage`, a dict in the format of OpenAI or transformers, or a message object of another library.
        role_conversions: Roles to replace, as `{"system": "user"}`. A message that thereby gets the role of the message
            before or behind it is merged with it.
        flatten: Whether the text parts of each message are joined into one string.

    Raises:
        InvalidRequest: A message is malformed; the error names its index and key.
    """
    if isinstance(messages, str):
        _check_characters(messages, "messages")
        return (ChatMessage(MessageRole.USER, messages),)
    if isinstance(messages, Mapping) or hasattr(messages, "role"):
        messages = [messages]
    if not isinstance(messages, Iterable) or isinstance(messages, bytes):
        raise InvalidRequest(f"messages must be a string or a list of messages, not {type(messages).__name__}")
    conversions = role_conversions_from(role_conversions) if role_conversions else {}
    messages = [*messages] if conversions else messages
    result = tuple(_message_from(m, f"messages[{i}]", conversions, flatten) for i, m in enumerate(messages))
    if not result:
        raise InvalidRequest("messages is empty: a request needs at least one message")
    result = with_call_ids(result)
    return _merge_converted(messages, result, conversions) if conversions else result


def _merge_converted(
    given: Sequence[Any], messages: tuple[ChatMessage, ...], conversions: Mapping[str, str]
) -> tuple[ChatMessage, ...]:
    """Merge each message whose role was replaced with its neighbours of the same role.

    Args:
        given: The messages as the caller wrote them.
        messages: The same messages, converted.
        conversions: The roles to replace.
    """
    is_converted = [_enum_value(m.get("role") if isinstance(m, Mapping) else m.role) in conversions for m in given]
    groups: list[list[ChatMessage]] = []
    for i, message in enumerate(messages):
        is_same = i and message.role == messages[i - 1].role and message.role != MessageRole.TOOL
        if is_same and (is_converted[i] or is_converted[i - 1]):
            groups[-1].append(message)
        else:
            groups.append([message])
    return tuple(merge(group) if len(group) > 1 else group[0] for group in groups)


def _message_from(message: Any, path: str, conversions: Mapping[str, str], flatten: bool) -> ChatMessage:
    if type(message) is dict and message.keys() == _SIMPLE_KEYS and not conversions:
        # Most messages are simple, and an agent sends its whole history with every call, so this saves much time.
        simple_role, text = message["role"], message["content"]
        if type(text) is str and type(simple_role) is str and simple_role in _SIMPLE_ROLES:
            _check_characters(text, f"{path}['content']")
            return ChatMessage(_SIMPLE_ROLES[simple_role], text)
    if isinstance(message, Mapping):
        for key, value in message.items():
            if key not in _INPUT_KEYS and key not in _OUTPUT_KEYS and value is not None:
                refuse(path, f"unknown key {excerpt(key)}; a message has {', '.join(sorted(_INPUT_KEYS))}")
        get: Callable[[str], Any] = message.get
    elif hasattr(message, "role"):
        get = lambda key: getattr(message, key, None)  # noqa: E731
    else:
        refuse(path, f"must be a dict or a ChatMessage, not {type(message).__name__}")
    given_role = _enum_value(get("role"))
    role = _ROLES.get(conversions.get(given_role, given_role)) if isinstance(given_role, str) else None
    if role is None:
        problem = "has no 'role'" if given_role is None else f"role {excerpt(given_role)} is unknown"
        refuse(path, f"{problem}; it must be one of {', '.join(sorted(_ROLES))}")
    if not isinstance(given_calls := get("tool_calls") or (), Sequence):
        refuse(f"{path}['tool_calls']", f"must be a list, not {type(given_calls).__name__}")
    calls = [_call_from(call, f"{path}['tool_calls'][{i}]") for i, call in enumerate(given_calls)]
    for key in ("name", "tool_call_id", "reasoning"):
        if (text := get(key)) is not None and not isinstance(text, str):
            refuse(f"{path}[{key!r}]", f"must be a string, not {type(text).__name__}")
    try:
        # The fields of the wire format are no attributes of a `ChatMessage`, which is therefore not searched for them.
        data = provider_data_from(get, () if isinstance(message, ChatMessage) else MESSAGE_FIELDS)
    except ValueError as error:
        refuse(path, str(error))
    # Agents use the roles `tool-call` and `tool-response`, which services don't have. Services require that the result
    # of a tool call has a `tool_call_id`, so a `tool-response` without one is sent as a user message.
    if role == "tool-call":
        role = MessageRole.ASSISTANT
    elif role == "tool-response":
        role = MessageRole.TOOL if get("tool_call_id") else MessageRole.USER
    given_content, reasoning = get("content"), get("reasoning") or get("reasoning_content")
    if role == "assistant" and (parts := reasoning_parts_of(given_content)):
        # The message of a log of Mistral or Databricks.
        given_content = [part for part in given_content if part not in parts] or None
        if get("provider_data") is not None:
            refuse(path, "'provider_data' and reasoning in 'content' exclude each other: pass one of them")
        data = ProviderData("chat_completions", (*(data.items if data else ()), {"content": parts}))
        reasoning = reasoning or "".join(map(reasoning_text_of, parts)) or None
    content = _content_from(given_content, path, flatten)
    if content is None and not calls and role != "assistant":
        refuse(path, "has no 'content'")
    return ChatMessage(
        role,
        content,
        tool_calls=calls or None,
        reasoning=reasoning,
        tool_call_id=get("tool_call_id"),
        name=get("name"),
        provider_data=data,
    )


def role_conversions_from(value: Any) -> dict[str, str]:
    """Return the role conversions as a dict of plain strings.

    Raises:
        InvalidRequest: `value` is not a dict, or a role in it is unknown.
    """
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"custom_role_conversions must be a dict, not {type(value).__name__}")
    result = {_enum_value(key): _enum_value(role) for key, role in value.items()}
    for given, role in result.items():
        if not isinstance(given, str) or not isinstance(role, str) or role not in _ROLES:
            raise InvalidRequest(
                f"custom_role_conversions: {given!r} becomes {role!r}; it must be one of {', '.join(sorted(_ROLES))}"
            )
    return result


def _call_from(given: Any, path: str) -> ChatMessageToolCall:
    """Return a tool call of the conversation with its arguments as JSON text."""
    try:
        call = tool_call_from(given)
    except ValueError as error:
        refuse(path, str(error))
    function, arguments_path = call.function, f"{path}['function']['arguments']"
    if isinstance(function.arguments, str):
        return call
    try:
        text = json.dumps(function.arguments, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        refuse(arguments_path, f"can't be written as JSON ({error}): pass JSON text, or types that JSON has")
    _check_characters(text, arguments_path)
    converted = ChatMessageToolCallFunction(text, function.name, function.description)
    return ChatMessageToolCall(converted, call.id, provider_data=call.provider_data)


def _check_characters(text: str, path: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        refuse(path, f"holds {text[error.start]!r}, half of a surrogate pair and not a character: leave it out")


def _content_from(content: Any, path: str, flatten: bool) -> str | tuple[Part, ...] | None:
    if content is None:
        return None
    if isinstance(content, str):
        _check_characters(content, f"{path}['content']")
        return content
    if isinstance(content, (Part, Mapping)) or not isinstance(content, Sequence):
        refuse(f"{path}['content']", f"must be a string or a list of parts, not {type(content).__name__}")
    parts = tuple(part_from(part, f"{path}['content'][{i}]") for i, part in enumerate(content))
    if not parts:
        return ""
    for i, part in enumerate(parts):
        if isinstance(part, Text):
            _check_characters(part.text, f"{path}['content'][{i}]['text']")
    if not flatten:
        only_part = parts[0] if len(parts) == 1 else None
        return only_part.text if isinstance(only_part, Text) and only_part.cache_control is None else parts
    for i, part in enumerate(parts):
        if not isinstance(part, Text):
            refuse(f"{path}['content'][{i}]", f"{part.kind} can't be flattened; drop flatten_messages_as_text")
    return "\n".join(part.text for part in parts if isinstance(part, Text))


def _enum_value(item: Any) -> Any:
    """Return the value of a member of any `Enum`; anything else is returned unchanged."""
    return getattr(item, "value", item)
