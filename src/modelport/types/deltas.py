"""Stream deltas, and the message that they add up to."""

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
    """A piece of a tool call; `index` says of which."""

    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: ChatMessageToolCallFunction | None = None


@dataclass(slots=True)
class ChatMessageStreamDelta:
    """A piece of a message. Text adds up; token usage, finish reason and what follows them come once, last.

    With `restart` the answer begins again, from another model: what had come of it is void (see `FallbackModel`).
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
        """Whether it holds a part of the answer itself, so that sending the request again would repeat it."""
        return bool(self.content or self.reasoning or self.tool_calls or self.reasoning_details)

    @property
    def is_empty(self) -> bool:
        """Whether every field has its default."""
        return self == _EMPTY and self.raw is None


_EMPTY = ChatMessageStreamDelta()
_values = attrgetter(*(item.name for item in fields(ChatMessageStreamDelta)))


def copied(delta: ChatMessageStreamDelta) -> ChatMessageStreamDelta:
    """A copy, which may be changed; a quarter of what `dataclasses.replace` costs."""
    return ChatMessageStreamDelta(*_values(delta))


def accumulate(
    deltas: Iterable[ChatMessageStreamDelta], model_id: str | None = None, *, parses: bool = True
) -> ChatMessage:
    """The message that these deltas make up.

    Tool-call arguments are parsed (unless `parses` is False) where they are valid JSON and stay text where not.
    """
    text: list[str] = []
    reasoning: list[str] = []
    calls: dict[int, ChatMessageToolCall] = {}
    logprobs: list[dict[str, Any]] = []
    details: list[dict[str, Any]] = []
    message = ChatMessage(MessageRole.ASSISTANT, model_id=model_id)
    for delta in deltas:
        if delta.restart:
            for lost in (text, reasoning, calls, logprobs, details):
                lost.clear()
        if delta.content:
            text.append(delta.content)
        if delta.reasoning:
            reasoning.append(delta.reasoning)
        for piece in delta.tool_calls or ():
            _add_piece(calls, piece)
        if delta.logprobs:
            logprobs += delta.logprobs
        if delta.reasoning_details:
            details += delta.reasoning_details
        if delta.warnings:
            message.warnings += delta.warnings
        if delta.attempts:
            message.attempts += delta.attempts
        for name in ("token_usage", "finish_reason", "stop_sequence", "parsed", "enforcement", "model_id", "raw"):
            value = getattr(delta, name)
            if value is not None:
                setattr(message, name, value)
    for call in calls.values() if parses else ():
        call.function.arguments = _parsed(call.function.arguments)
    # A message with neither text nor calls is an empty answer; one with calls alone has no text at all.
    message.content = "".join(text) if text or not calls else None
    message.reasoning = "".join(reasoning) or None
    message.tool_calls = list(calls.values()) or None
    message.logprobs = logprobs or None
    message.reasoning_details = details or None
    return message


def _add_piece(calls: dict[int, ChatMessageToolCall], piece: ChatMessageToolCallStreamDelta) -> None:
    index = piece.index if piece.index is not None else len(calls)
    call = calls.setdefault(index, ChatMessageToolCall(ChatMessageToolCallFunction("", ""), ""))
    call.id = piece.id or call.id
    call.type = piece.type or call.type
    if piece.function is not None:
        call.function.name = piece.function.name or call.function.name
        known, given = call.function.arguments, piece.function.arguments
        if isinstance(known, str) and isinstance(given, str):
            call.function.arguments = known + given
        elif given is not None and given != "":
            call.function.arguments = given


def _parsed(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    if not arguments.strip():
        return {}  # A call without arguments is written "" by some services and {} by others.
    try:
        return read_json(arguments)
    except ValueError:
        return arguments


def as_delta(answer: Any) -> ChatMessageStreamDelta:
    """A whole answer, as one delta: a `ChatMessage`, or any object of another library's with a `.content`.

    Raises:
        AttributeError: It has no `content`.
    """
    calls = [tool_call_from(call) for call in getattr(answer, "tool_calls", None) or ()]
    optional = (
        "reasoning", "finish_reason", "stop_sequence", "parsed", "enforcement", "logprobs", "model_id", "raw",
        "reasoning_details",
    )  # fmt: skip
    values: dict[str, Any] = {name: getattr(answer, name, None) for name in optional}
    return ChatMessageStreamDelta(
        content=None if answer.content is None else text_of(answer.content),
        tool_calls=[
            ChatMessageToolCallStreamDelta(
                i, call.id, call.type, ChatMessageToolCallFunction(call.function.arguments_json(), call.function.name)
            )
            for i, call in enumerate(calls)
        ]
        or None,
        token_usage=getattr(answer, "token_usage", None),
        warnings=getattr(answer, "warnings", None) or None,
        attempts=getattr(answer, "attempts", None) or None,
        **values,
    )
