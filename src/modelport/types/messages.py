"""What goes in and comes out: messages, their tool calls, and the deltas they are folded from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from modelport.secrets import Url
from modelport.types.content import repr_without_urls, text_of
from modelport.types.usage import TokenUsage

_JSON = dict[str, Any]  # under a name of its own, since two classes here have a method `dict`


class MessageRole(StrEnum):
    """Who speaks. `tool-call` and `tool-response` are the agents' names for a call and its result."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    TOOL = "tool"
    TOOL_CALL = "tool-call"
    TOOL_RESPONSE = "tool-response"

    @classmethod
    def roles(cls) -> list[str]:
        """All roles, as strings."""
        return [role.value for role in cls]


@dataclass(slots=True)
class ChatMessageToolCallFunction:
    """The function that a tool call names.

    Args:
        arguments: Parsed (a dict) on a whole message; the raw text on a delta, and where it is no valid JSON.
        name: The tool's name.
        description: Carried for callers; models are never sent it.
    """

    arguments: Any
    name: str
    description: str | None = None

    def arguments_json(self) -> str:
        """The arguments as JSON text, as services want them back."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(slots=True)
class ChatMessageToolCall:
    """A call that the model makes."""

    function: ChatMessageToolCallFunction
    id: str
    type: str = "function"

    def __str__(self) -> str:
        return f"Call: {self.id}: Calling {self.function.name} with arguments: {self.function.arguments}"


@dataclass(slots=True)
class Attempt:
    """One model of several that was asked for an answer.

    Args:
        model_id: Its name.
        error: Why the answer is not its own: the type of its error and what that said; `None` for the one that
            answered.
        seconds: How long it took.
    """

    model_id: str | None = None
    error: str | None = None
    seconds: float | None = None


@dataclass(slots=True)
class ChatMessage:
    """A message of a conversation; `print(message)` prints its text.

    Args:
        role: One of `MessageRole`.
        content: The text, or a list of parts (dicts as OpenAI and transformers write them, or `Part`s).
        tool_calls: The calls that an assistant makes.
        raw: The service's own answer (of a stream: its closing event), for what is not modelled here.
        token_usage: What the call cost.
        reasoning: The model's thinking, apart from its answer.
        finish_reason: `stop`, `length`, `tool_calls` or `content_filter`.
        stop_sequence: The stop sequence that ended the answer, where known.
        parsed: The answer in the form that `grammar` asked for.
        enforcement: How that form was secured: `enforced` (the engine's or service's own constraint),
            `forced_tool`, or `validated` (checked after the fact, with re-asks).
        logprobs: A dict for each token: `token`, `logprob`, `bytes` and `top_logprobs`.
        model_id: The model that answered.
        warnings: What was honoured another way than asked, in words.
        tool_call_id: On a `tool` message, the call that it answers.
        name: The speaker's or the tool's name, where a service wants one.
        reasoning_details: What the service wants back along with the thinking: its signature, or thoughts that only the
            service can read. Each is a dict in that service's own form, which means nothing to another.
        attempts: The models that were asked for this answer, where there were several to ask (`FallbackModel`).
    """

    role: MessageRole | str
    content: str | Sequence[Any] | None = None
    tool_calls: list[ChatMessageToolCall] | None = None
    raw: Any = field(default=None, repr=False, compare=False)
    token_usage: TokenUsage | None = None
    reasoning: str | None = None
    finish_reason: str | None = None
    stop_sequence: str | None = None
    parsed: Any = None
    enforcement: str | None = None
    logprobs: list[_JSON] | None = field(default=None, repr=False)
    model_id: str | None = None
    warnings: list[str] = field(default_factory=list)
    tool_call_id: str | None = None
    name: str | None = None
    reasoning_details: list[_JSON] | None = field(default=None, repr=False)
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text of the content, parts joined by newlines."""
        return text_of(self.content)

    def __str__(self) -> str:
        calls = "" if not self.tool_calls else "\n".join(str(call) for call in self.tool_calls)
        return self.text + ("\n" if self.text and calls else "") + calls

    def __repr__(self) -> str:
        return repr_without_urls(self)

    def to_dict(self) -> _JSON:
        """A dict that JSON can hold and that `from_dict` and `generate` take; unset fields and `raw` are left out."""
        result: _JSON = {"role": str(self.role), "content": _plain(self.content)}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in ("role", "content", "raw") or value is None or value == []:
                continue
            result[item.name] = _plain(value)
        return result

    def dict(self) -> _JSON:
        """Another name of `to_dict`."""
        return self.to_dict()

    def model_dump_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, data: _JSON, raw: Any = None, token_usage: Any = None) -> ChatMessage:
        """The message that `to_dict` wrote.

        Args:
            data: A dict with at least a `role`; unknown keys are an error.
            raw: Taken over as it is.
            token_usage: Instead of the one in `data`.
        """
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ValueError(f"unknown key {unknown[0]!r} in a message; known are {', '.join(sorted(known))}")
        values = {**data}
        values["role"] = MessageRole(values["role"])
        if calls := values.get("tool_calls"):
            values["tool_calls"] = [tool_call_from(call) for call in calls]
        if isinstance(usage := values.get("token_usage"), Mapping):
            counts = {item.name for item in fields(TokenUsage)}
            values["token_usage"] = TokenUsage(**{key: usage[key] for key in counts & set(usage)})
        values["attempts"] = [Attempt(**a) if isinstance(a, Mapping) else a for a in values.get("attempts") or ()]
        if token_usage is not None:
            values["token_usage"] = token_usage
        values["raw"] = raw
        return cls(**values)

    def render_as_markdown(self) -> str:
        """The text, then each tool call as JSON."""
        calls = (
            json.dumps({"tool": call.function.name, "arguments": _plain(call.function.arguments)})
            for call in self.tool_calls or ()
        )
        return "\n".join(filter(None, (self.text, *calls)))


def tool_call_from(call: Any) -> ChatMessageToolCall:
    """A tool call of ours, from a dict or an object of OpenAI's form.

    Raises:
        ValueError: It lacks a function, or the function a name.
    """
    if isinstance(call, ChatMessageToolCall):
        return call
    function = call.get("function") if isinstance(call, dict) else getattr(call, "function", None)
    if function is None:
        raise ValueError("a tool call needs a 'function' with 'name' and 'arguments'")
    get: Callable[[str], Any] = function.get if isinstance(function, dict) else lambda key: getattr(function, key, None)
    if not isinstance(name := get("name"), str):
        raise ValueError("a tool call's function needs a 'name'")
    identifier = call.get("id") if isinstance(call, dict) else getattr(call, "id", None)
    if not isinstance(identifier, str | None):
        raise ValueError(f"a tool call's 'id' must be a string, not {type(identifier).__name__}")
    arguments = get("arguments")
    return ChatMessageToolCall(
        ChatMessageToolCallFunction({} if arguments is None else arguments, name, get("description")), identifier or ""
    )


def _plain(value: Any) -> Any:
    """The value as JSON can hold it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return str(value) if isinstance(value, (StrEnum, Url)) else value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "__dataclass_fields__"):
        return {item.name: _plain(v) for item in fields(value) if (v := getattr(value, item.name)) is not None}
    return str(value)
