"""Messages and tool calls: the input and the output of every call.

`modelport.inputs.messages` converts the messages that callers pass into these classes. `modelport.types.deltas`
accumulates the deltas of a stream into a `ChatMessage`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Generic

from modelport.schema.json_text import excerpt
from modelport.secrets import Url
from modelport.types.content import repr_with_urls_hidden, text_of
from modelport.types.parsed import Parsed
from modelport.types.provider_data import CALL_FIELDS, MESSAGE_FIELDS, ProviderData, provider_data_from
from modelport.types.usage import TokenUsage
from modelport.types.warnings import CallWarning

#: A JSON object. In the class `ChatMessage` the name `dict` denotes its method, so annotations can't use `dict[…]`.
_JSON = dict[str, Any]


class MessageRole(StrEnum):
    """The author of a message.

    Some agent frameworks use `tool-call` for a message that calls a tool, and `tool-response` for the result of the
    call. Both are accepted in a conversation. Before it is sent, `tool-call` becomes `assistant`; `tool-response`
    becomes `tool`, or `user` if the message has no `tool_call_id`.
    """

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    TOOL = "tool"
    TOOL_CALL = "tool-call"
    TOOL_RESPONSE = "tool-response"

    @classmethod
    def roles(cls) -> list[str]:
        """Return all roles as strings."""
        return [role.value for role in cls]


@dataclass(slots=True)
class ChatMessageToolCallFunction:
    """The function that a tool call names.

    Args:
        arguments: In a `ChatMessage`, the parsed arguments (a dict), or the model's text if it is not valid JSON. In a
            delta, a piece of the model's text.
        name: The tool's name.
        description: For the caller's own use; it is never sent to a model.
    """

    arguments: Any
    name: str
    description: str | None = None

    def arguments_json(self) -> str:
        """Return the arguments as JSON text: services expect text when the call is sent back in a later request."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


#: Arguments that are no JSON object are sent back as a text under this key; see `layers.adapt.invalid_calls`.
INVALID_ARGUMENTS = "invalid_arguments"


@dataclass(slots=True)
class ChatMessageToolCall:
    """A tool call that the model makes.

    Args:
        function: The tool's name and the arguments.
        id: The ID to which the `tool_call_id` of the message with the tool's result refers.
        type: Always `function`.
        provider_data: What the service expects to receive again with this call, such as a signature.
        error: Why the call can't be used, if it came with `tool_errors="return"`; `None` for a call that can.
    """

    function: ChatMessageToolCallFunction
    id: str
    type: str = "function"
    provider_data: ProviderData | None = field(default=None, repr=False)
    error: str | None = None

    def __str__(self) -> str:
        return f"Call: {self.id}: Calling {self.function.name} with arguments: {self.function.arguments}"


@dataclass(slots=True)
class Attempt:
    """What happened when `FallbackModel` sent the request to one model.

    Args:
        model_id: The model's name.
        error: The type and the text of the error with which the model failed; `None` for the model that responded.
        seconds: How long the attempt took, in seconds.
    """

    model_id: str | None = None
    error: str | None = None
    seconds: float | None = None


@dataclass(slots=True)
class ChatMessage(Generic[Parsed]):
    """A message of a conversation; `print(message)` prints its text.

    Args:
        role: One of `MessageRole`.
        content: The text, or a list of parts: `Part`s, or dicts as chat completions and transformers write them.
        tool_calls: The calls that an assistant makes.
        raw: The unchanged response of the service (of a stream: its last event), for callers who need a field that
            this class does not have.
        token_usage: The token counts of the call.
        reasoning: The model's reasoning, apart from its output.
        finish_reason: `stop`, `length`, `tool_calls` or `content_filter`.
        stop_sequence: The stop sequence that ended the output; `None` if there was none or it is not known.
        parsed: The output as an object of the requested output type (`grammar`), for example a pydantic model.
        enforcement: How the output type was enforced: `enforced` (constrained decoding by the engine or the service),
            `forced_tool` (the model had to call a tool whose arguments are the output), or `validated` (only the
            finished output was checked; if it was not valid and the call did not stream, it was requested again).
        logprobs: For each token, a dict with the keys `token`, `logprob`, `bytes` and `top_logprobs`.
        model_id: The model that responded.
        warnings: What was done in another way than requested.
        tool_call_id: On a `tool` message, the ID of the call whose result it is.
        name: The name of the author or of the tool, for services that accept one.
        provider_data: What the service expects to receive again in later requests, such as the signature of the
            reasoning, or encrypted reasoning. It is sent to the same service only.
        attempts: What happened with each model that `FallbackModel` called; empty for other models.
    """

    role: MessageRole | str
    content: str | Sequence[Any] | None = None
    tool_calls: list[ChatMessageToolCall] | None = None
    raw: Any = field(default=None, repr=False, compare=False)
    token_usage: TokenUsage | None = None
    reasoning: str | None = None
    finish_reason: str | None = None
    stop_sequence: str | None = None
    parsed: Parsed = None  # type: ignore[assignment]  # It is `None` in a call without an output type.
    enforcement: str | None = None
    logprobs: list[_JSON] | None = field(default=None, repr=False)
    model_id: str | None = None
    warnings: list[CallWarning] = field(default_factory=list)
    tool_call_id: str | None = None
    name: str | None = None
    provider_data: ProviderData | None = field(default=None, repr=False)
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text of the content; the texts of several parts are joined by newlines."""
        return text_of(self.content)

    def __str__(self) -> str:
        calls = "" if not self.tool_calls else "\n".join(str(call) for call in self.tool_calls)
        return self.text + ("\n" if self.text and calls else "") + calls

    def __repr__(self) -> str:
        return repr_with_urls_hidden(self)

    def to_dict(self) -> _JSON:
        """Return the message as a dict of JSON types. `from_dict` and `generate` accept the dict.

        The dict does not have `raw`, nor fields that are `None` or empty lists.
        """
        result: _JSON = {"role": str(self.role), "content": _to_json(self.content)}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in ("role", "content", "raw") or value is None or value == []:
                continue
            result[item.name] = _to_json(value)
        return result

    def dict(self) -> _JSON:
        """Return the same as `to_dict()`."""
        return self.to_dict()

    def model_dump_json(self) -> str:
        """Return `to_dict()` as JSON text."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, data: _JSON, raw: Any = None, token_usage: Any = None) -> ChatMessage:
        """Return the message whose `to_dict` returned `data`.

        Args:
            data: A dict with at least a `role`. It may also have fields in which services return provider data, such as
                `reasoning_content`.
            raw: The message's `raw`, which `data` does not have.
            token_usage: The message's `token_usage`; `None` to take it from `data`.

        Raises:
            ValueError: `data` is not such a dict: it has no role, an unknown key, or a value of another type.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"a message must be a dict, not {type(data).__name__}")
        _check_keys(data, cls, "a message", MESSAGE_FIELDS)
        for key, value in data.items():
            expected = _TYPES.get(key, str)
            if value is not None and not isinstance(value, expected):
                raise ValueError(f"{key!r} in a message can't be of the type {type(value).__name__}")
        values = {**data}
        if values.get("role") is None:
            raise ValueError("a message needs a 'role'")
        if values["role"] not in list(MessageRole):
            raise ValueError(f"'role' in a message is {excerpt(values['role'])}; known are {', '.join(MessageRole)}")
        values["role"] = MessageRole(values["role"])
        if calls := values.get("tool_calls"):
            values["tool_calls"] = [tool_call_from(call) for call in calls]
        if isinstance(usage := values.get("token_usage"), Mapping):
            values["token_usage"] = _usage_from(usage)
        values["warnings"] = [CallWarning.from_value(warning) for warning in values.get("warnings") or ()]
        values["attempts"] = [_attempt_from(attempt) for attempt in values.get("attempts") or ()]
        if token_usage is not None:
            values["token_usage"] = token_usage
        values["raw"] = raw
        values["provider_data"] = provider_data_from(data.get, MESSAGE_FIELDS)
        by_hand = {name: values.pop(name, None) for name in MESSAGE_FIELDS}
        if isinstance(by_hand["reasoning_content"], str):
            values["reasoning"] = values.get("reasoning") or by_hand["reasoning_content"] or None
        return cls(**values)

    def render_as_markdown(self) -> str:
        """Return the text, followed by each tool call as JSON."""
        calls = (
            json.dumps({"tool": call.function.name, "arguments": _to_json(call.function.arguments)})
            for call in self.tool_calls or ()
        )
        return "\n".join(filter(None, (self.text, *calls)))


#: Key of the dict of a message -> the types that its value may have, if that is not `str` alone. Each may be `None`.
_TYPES: Mapping[str, Any] = {
    "content": str | list | tuple, "tool_calls": list | tuple, "token_usage": TokenUsage | Mapping,
    "warnings": list | tuple, "attempts": list | tuple, "logprobs": list | tuple, "parsed": object, "raw": object,
    # `provider_data_from` checks these.
    **dict.fromkeys(("provider_data", *MESSAGE_FIELDS), object),
}  # fmt: skip


def _check_keys(data: Mapping[Any, Any], cls: type[Any], what: str, others: Iterable[str] = ()) -> None:
    known = {item.name for item in fields(cls)} | {*others}
    if unknown := sorted(map(excerpt, set(data) - known)):
        raise ValueError(f"unknown key {unknown[0]} in {what}; known are {', '.join(sorted(known))}")


def _attempt_from(value: Any) -> Attempt:
    if isinstance(value, Attempt):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"an attempt in a message must be a dict, not {type(value).__name__}")
    _check_keys(value, Attempt, "an attempt")
    return Attempt(**value)


def _usage_from(usage: Mapping[str, Any]) -> TokenUsage:
    counts = {item.name: usage.get(item.name) for item in fields(TokenUsage)}
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int | None):
            raise ValueError(f"{name!r} in a message's 'token_usage' must be an integer, not {type(count).__name__}")
    return TokenUsage(**counts)


def tool_call_from(call: Any) -> ChatMessageToolCall:
    """Return the tool call from a dict or an object in the chat completions format.

    Raises:
        ValueError: The call has no function, the function has no name, the ID is not a string, or the provider data is
            not valid.
    """
    if isinstance(call, ChatMessageToolCall):
        return call
    function = call.get("function") if isinstance(call, dict) else getattr(call, "function", None)
    if function is None:
        raise ValueError("a tool call needs a 'function' with 'name' and 'arguments'")
    get: Callable[[str], Any] = function.get if isinstance(function, dict) else lambda key: getattr(function, key, None)
    if not isinstance(name := get("name"), str):
        raise ValueError("a tool call's function needs a 'name'")
    get_from_call: Callable[[str], Any] = call.get if isinstance(call, dict) else lambda key: getattr(call, key, None)
    identifier = get_from_call("id")
    if not isinstance(identifier, str | None):
        raise ValueError(f"a tool call's 'id' must be a string, not {type(identifier).__name__}")
    arguments = get("arguments")
    return ChatMessageToolCall(
        ChatMessageToolCallFunction({} if arguments is None else arguments, name, get("description")),
        identifier or "",
        provider_data=provider_data_from(get_from_call, CALL_FIELDS),
        error=error if isinstance(error := get_from_call("error"), str) else None,
    )


def _to_json(value: Any) -> Any:
    """Return the value as JSON types: objects become dicts, and an unknown object becomes its `str`."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return str(value) if isinstance(value, (StrEnum, Url)) else value
    if isinstance(value, dict):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    if hasattr(value, "to_dict"):
        return _to_json(value.to_dict())
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "__dataclass_fields__"):
        return {item.name: _to_json(v) for item in fields(value) if (v := getattr(value, item.name)) is not None}
    return str(value)
