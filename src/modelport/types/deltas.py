"""Stream deltas, and how they add up to a message."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

from modelport.schema.json_text import read_json
from modelport.types.content import text_of
from modelport.types.messages import (
    Attempt,
    ChatMessage,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    MessageRole,
    tool_call_from,
)
from modelport.types.usage import TokenUsage


@dataclass(slots=True)
class ChatMessageToolCallStreamDelta:
    """A piece of a tool call; `index` is the position of the call in the response."""

    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: ChatMessageToolCallFunction | None = None


@dataclass(slots=True)
class ChatMessageStreamDelta:
    """A piece of a message. Text adds up. Token usage, finish reason and the fields that follow come once, at the end.

    `restart` marks the first delta of a response that another model began anew: all earlier deltas of the response are
    void (see `FallbackModel`).
    """

    content: str | None = None
    tool_calls: list[ChatMessageToolCallStreamDelta] | None = None
    token_usage: TokenUsage | None = None
    reasoning: str | None = None
    finish_reason: str | None = None
    stop_sequence: str | None = None
    parsed: Any = None
    enforcement: str | None = None
    logprobs: list[dict[str, Any]] | None = field(default=None, repr=False)
    model_id: str | None = None
    warnings: list[str] | None = None
    raw: Any = field(default=None, repr=False, compare=False)
    reasoning_details: list[dict[str, Any]] | None = field(default=None, repr=False)
    attempts: list[Attempt] | None = None
    restart: bool = False

    @property
    def delivers(self) -> bool:
        """Whether the delta holds a part of the response itself, which sending the request again would repeat."""
        return bool(self.content or self.reasoning or self.tool_calls or self.reasoning_details)

    @property
    def is_empty(self) -> bool:
        """Whether every field has its default."""
        return self == _EMPTY and self.raw is None


_EMPTY = ChatMessageStreamDelta()
_values = attrgetter(*(item.name for item in fields(ChatMessageStreamDelta)))


def copy_delta(delta: ChatMessageStreamDelta) -> ChatMessageStreamDelta:
    """Return a copy, in a quarter of the time that `dataclasses.replace` takes."""
    return ChatMessageStreamDelta(*_values(delta))


class MessageBuilder:
    """Adds deltas up to a message. Neither the deltas nor a message that was built is changed afterwards.

    Args:
        model_id: The model that was called; a delta may name another.

    Attributes:
        delivered: Whether a delta held a part of the response itself.
    """

    __slots__ = (
        "delivered",
        "_text",
        "_reasoning",
        "_calls",
        "_logprobs",
        "_details",
        "_warnings",
        "_attempts",
        "_last_values",
    )

    def __init__(self, model_id: str | None = None) -> None:
        self.delivered = False
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _ToolCallBuilder] = {}
        self._logprobs: list[dict[str, Any]] = []
        self._details: list[dict[str, Any]] = []
        self._warnings: list[str] = []
        self._attempts: list[Attempt] = []
        self._last_values: dict[str, Any] = {"model_id": model_id}

    def add(self, delta: ChatMessageStreamDelta) -> None:
        """Add the next delta; one with `restart` makes what was added of the response void."""
        if delta.restart:
            for parts in (self._text, self._reasoning, self._calls, self._logprobs, self._details):
                parts.clear()
        if delta.content:
            self.delivered = True
            self._text.append(delta.content)
        if delta.reasoning:
            self.delivered = True
            self._reasoning.append(delta.reasoning)
        if delta.tool_calls:
            self.delivered = True
            for piece in delta.tool_calls:
                index = len(self._calls) if piece.index is None else piece.index
                self._calls.setdefault(index, _ToolCallBuilder()).add(piece)
        if delta.reasoning_details:
            self.delivered = True
            self._details += delta.reasoning_details
        if delta.logprobs:
            self._logprobs += delta.logprobs
        if delta.warnings:
            self._warnings += delta.warnings
        if delta.attempts:
            self._attempts += delta.attempts
        # The rest comes once, or the last value counts. Every chunk of a stream passes here, so no function is called.
        values = self._last_values
        if delta.token_usage is not None:
            values["token_usage"] = delta.token_usage
        if delta.finish_reason is not None:
            values["finish_reason"] = delta.finish_reason
        if delta.stop_sequence is not None:
            values["stop_sequence"] = delta.stop_sequence
        if delta.parsed is not None:
            values["parsed"] = delta.parsed
        if delta.enforcement is not None:
            values["enforcement"] = delta.enforcement
        if delta.model_id is not None:
            values["model_id"] = delta.model_id
        if delta.raw is not None:
            values["raw"] = delta.raw

    def message(self, *, parse_arguments: bool = True) -> ChatMessage:
        """Build the message that the deltas make up so far.

        Args:
            parse_arguments: Whether the arguments of tool calls are parsed where they are valid JSON. They stay text
                where they are not.
        """
        calls = [call.build(parse_arguments) for call in self._calls.values()]
        return ChatMessage(
            MessageRole.ASSISTANT,
            # A message with neither text nor calls is an empty response. One that only calls tools has no text at all.
            "".join(self._text) if self._text or not calls else None,
            calls or None,
            reasoning="".join(self._reasoning) or None,
            logprobs=list(self._logprobs) or None,
            reasoning_details=list(self._details) or None,
            warnings=list(self._warnings),
            attempts=list(self._attempts),
            **self._last_values,
        )


class _ToolCallBuilder:
    """Adds the pieces of one tool call up."""

    __slots__ = ("id", "type", "name", "arguments")

    def __init__(self) -> None:
        self.id, self.type, self.name = "", "function", ""
        self.arguments: list[str] | tuple[Any] = [""]  # A list of pieces of text, or a tuple of parsed arguments.

    def add(self, piece: ChatMessageToolCallStreamDelta) -> None:
        self.id = piece.id or self.id
        self.type = piece.type or self.type
        if piece.function is not None:
            self.name = piece.function.name or self.name
            self._add_arguments(piece.function.arguments)

    def _add_arguments(self, arguments: Any) -> None:
        # Some services send arguments parsed, and then an empty piece, or the same call twice: the last value counts.
        if not isinstance(arguments, str):
            if arguments is not None:
                self.arguments = (arguments,)
        elif isinstance(self.arguments, list):
            self.arguments.append(arguments)
        elif arguments:
            self.arguments = [arguments]

    def build(self, parse_arguments: bool) -> ChatMessageToolCall:
        arguments = "".join(self.arguments) if isinstance(self.arguments, list) else self.arguments[0]
        if parse_arguments:
            arguments = _parse_arguments(arguments)
        return ChatMessageToolCall(ChatMessageToolCallFunction(arguments, self.name), self.id, self.type)


def accumulate(deltas: Iterable[ChatMessageStreamDelta], model_id: str | None = None) -> ChatMessage:
    """Return the message that these deltas make up.

    Args:
        deltas: All deltas of a response, in order.
        model_id: The model that was called; a delta may name another.

    Returns:
        The message. The arguments of its tool calls are parsed where they are valid JSON, and stay text where not.
    """
    builder = MessageBuilder(model_id)
    for delta in deltas:
        builder.add(delta)
    return builder.message()


def _parse_arguments(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    if not arguments.strip():
        return {}  # Some services write a call without arguments as "", others as {}.
    try:
        return read_json(arguments)
    except ValueError:
        return arguments


def as_delta(response: Any) -> ChatMessageStreamDelta:
    """Return a complete response as one delta.

    Args:
        response: A `ChatMessage`, or an object of another library that has a `content`.

    Raises:
        AttributeError: The object has no `content`.
    """
    calls = [tool_call_from(call) for call in getattr(response, "tool_calls", None) or ()]
    optional = (
        "reasoning", "finish_reason", "stop_sequence", "parsed", "enforcement", "logprobs", "model_id", "raw",
        "reasoning_details",
    )  # fmt: skip
    values: dict[str, Any] = {name: getattr(response, name, None) for name in optional}
    return ChatMessageStreamDelta(
        content=None if response.content is None else text_of(response.content),
        tool_calls=[
            ChatMessageToolCallStreamDelta(
                i, call.id, call.type, ChatMessageToolCallFunction(call.function.arguments_json(), call.function.name)
            )
            for i, call in enumerate(calls)
        ]
        or None,
        token_usage=getattr(response, "token_usage", None),
        warnings=getattr(response, "warnings", None) or None,
        attempts=getattr(response, "attempts", None) or None,
        **values,
    )
