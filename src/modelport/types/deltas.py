"""The deltas of a response (the pieces of a stream), and how they are accumulated into a message."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

from modelport.errors import MalformedResponse
from modelport.schema.json_text import json_size_problem, read_json
from modelport.schema.time_limit import LONG_TEXT
from modelport.types.content import text_of
from modelport.types.messages import (
    Attempt,
    ChatMessage,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    MessageRole,
    tool_call_from,
)
from modelport.types.provider_data import MESSAGE_FIELDS, ProviderData, join, provider_data_from
from modelport.types.usage import TokenUsage
from modelport.types.warnings import CallWarning


@dataclass(slots=True)
class ChatMessageToolCallStreamDelta:
    """A piece of a tool call.

    Args:
        index: The position of the call among the calls of the response; `None` if the piece is a complete call.
        id: The ID of the call. Usually only the first piece of a call has it.
        type: `function`.
        function: The tool's name, and a piece of the text of the arguments.
        provider_data: Provider data of the call. The items of all pieces are joined, in order.
        error: Why the call can't be used; it comes in a last piece, without a function.
    """

    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: ChatMessageToolCallFunction | None = None
    provider_data: ProviderData | None = field(default=None, repr=False)
    error: str | None = None


@dataclass(slots=True)
class ChatMessageStreamDelta:
    """A piece of a response; its fields have the meaning of the same fields of `ChatMessage`.

    `MessageBuilder` joins the texts, the lists and the items of the provider data of all deltas. Of every other field,
    it takes the last value that is not `None`, which usually comes with the last delta.

    `restart` is true if a response starts anew with this delta, so that all earlier output must be discarded:
    `FallbackModel` sets it where a model failed in mid-stream and another model was called.
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
    warnings: list[CallWarning] | None = None
    raw: Any = field(default=None, repr=False, compare=False)
    provider_data: ProviderData | None = field(default=None, repr=False)
    attempts: list[Attempt] | None = None
    restart: bool = False

    @property
    def has_output(self) -> bool:
        """Whether the delta has output of the model: text, reasoning, a piece of a tool call or provider data.

        A request is not retried after the caller has received output, because the caller would receive it twice.
        """
        return bool(self.content or self.reasoning or self.tool_calls or self.provider_data)

    @property
    def is_empty(self) -> bool:
        """Whether no field is set."""
        return self == _EMPTY and self.raw is None


_EMPTY = ChatMessageStreamDelta()
_values = attrgetter(*(item.name for item in fields(ChatMessageStreamDelta)))


def copy_delta(delta: ChatMessageStreamDelta) -> ChatMessageStreamDelta:
    """Return a copy, in a quarter of the time that `dataclasses.replace` takes."""
    return ChatMessageStreamDelta(*_values(delta))


#: No message has more tool calls. To validate 100,000 calls took 13 s, in which nothing else ran.
MAX_TOOL_CALLS = 1024


class MessageBuilder:
    """Accumulates deltas into a message. It changes neither the deltas nor a message that it has returned.

    Args:
        model_id: The name of the model that was called. If a delta has a `model_id`, that name is used instead.

    Attributes:
        has_output: Whether any delta so far had output (`ChatMessageStreamDelta.has_output`).
    """

    __slots__ = (
        "has_output",
        "_text",
        "_reasoning",
        "_calls",
        "_logprobs",
        "_provider_data",
        "_warnings",
        "_attempts",
        "_last_values",
    )

    def __init__(self, model_id: str | None = None) -> None:
        self.has_output = False
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _ToolCallBuilder] = {}
        self._logprobs: list[dict[str, Any]] = []
        self._provider_data: list[ProviderData] = []
        self._warnings: list[CallWarning] = []
        self._attempts: list[Attempt] = []
        self._last_values: dict[str, Any] = {"model_id": model_id}

    def add(self, delta: ChatMessageStreamDelta) -> None:
        """Add the next delta. If it has `restart`, the output of all earlier deltas is discarded first."""
        if delta.restart:
            for parts in (self._text, self._reasoning, self._calls, self._logprobs, self._provider_data):
                parts.clear()
        if delta.content:
            self.has_output = True
            self._text.append(delta.content)
        if delta.reasoning:
            self.has_output = True
            self._reasoning.append(delta.reasoning)
        if delta.tool_calls:
            self.has_output = True
            for piece in delta.tool_calls:
                index = len(self._calls) if piece.index is None else piece.index
                self._calls.setdefault(index, _ToolCallBuilder()).add(piece)
            if len(self._calls) > MAX_TOOL_CALLS:
                raise MalformedResponse(f"The response has more than {MAX_TOOL_CALLS} tool calls.")
        if delta.provider_data is not None:
            self.has_output = True
            self._provider_data.append(delta.provider_data)
        if delta.logprobs:
            self._logprobs += delta.logprobs
        if delta.warnings:
            self._warnings += CallWarning.list_from(delta.warnings)
        if delta.attempts:
            self._attempts += delta.attempts
        # Of the remaining fields, the last value that is not `None` counts. These lines run for every delta, so they
        # are written out: a loop with `getattr` would take longer.
        values = self._last_values
        if delta.token_usage is not None:
            values["token_usage"] = delta.token_usage
        if delta.finish_reason:
            values["finish_reason"] = delta.finish_reason
        if delta.stop_sequence:
            values["stop_sequence"] = delta.stop_sequence
        if delta.parsed is not None:
            values["parsed"] = delta.parsed
        if delta.enforcement is not None:
            values["enforcement"] = delta.enforcement
        if delta.model_id is not None:
            values["model_id"] = delta.model_id
        if delta.raw:
            values["raw"] = delta.raw

    @property
    def call_indices(self) -> list[int]:
        """The indices of the tool calls, in the order of the message."""
        return list(self._calls)

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._text)

    def message(self, *, parse_arguments: bool = True) -> ChatMessage:
        """Return the message that consists of the deltas added so far.

        Args:
            parse_arguments: Whether arguments of tool calls that are valid JSON are parsed. Other arguments stay text,
                and all do if they are too large together (`json_size_problem`). Arguments of more than 100,000
                characters are parsed once: all messages share their value.
        """
        if parse_arguments and self._calls:
            parse_arguments = json_size_problem(*(call.text() for call in self._calls.values())) is None
        calls = [call.build(parse_arguments) for call in self._calls.values()]
        return ChatMessage(
            MessageRole.ASSISTANT,
            # Without text, the content of a message with tool calls is `None`, and that of an empty response is "".
            "".join(self._text) if self._text or not calls else None,
            calls or None,
            reasoning="".join(self._reasoning) or None,
            logprobs=list(self._logprobs) or None,
            provider_data=join(self._provider_data) if self._provider_data else None,
            warnings=self._final_warnings(),
            attempts=list(self._attempts),
            **self._last_values,
        )

    def _final_warnings(self) -> list[CallWarning]:
        """Return the warnings, without those that say that a parameter was sent which was then left out."""
        if not self._warnings:
            return []
        left_out = {one.feature for one in self._warnings if one.type == "left_out" and one.feature is not None}
        return [one for one in self._warnings if one.type != "forwarded" or one.feature not in left_out]


class _ToolCallBuilder:
    """Accumulates the pieces of one tool call."""

    __slots__ = ("id", "type", "name", "arguments", "provider_data", "error", "_parsed")

    def __init__(self) -> None:
        self.id, self.type, self.name = "", "function", ""
        self.provider_data: list[ProviderData] = []
        self.error: str | None = None
        # Either a list of the pieces of the arguments' text, or a tuple whose one item is the parsed arguments.
        self.arguments: list[str] | tuple[Any] = [""]
        #: The text of long arguments, and the value that was parsed from it.
        self._parsed: tuple[str, Any] = ("", None)

    def add(self, piece: ChatMessageToolCallStreamDelta) -> None:
        self.id = piece.id or self.id
        self.type = piece.type or self.type
        if piece.function is not None:
            self.name = piece.function.name or self.name
            self._add_arguments(piece.function.arguments)
        if piece.provider_data is not None:
            self.provider_data.append(piece.provider_data)
        self.error = piece.error or self.error

    def _add_arguments(self, arguments: Any) -> None:
        # Some services send the arguments parsed instead of as text, and then an empty piece of text or the same
        # arguments a second time. So pieces of text are joined, but parsed arguments are replaced.
        if not isinstance(arguments, str):
            if arguments is not None:
                self.arguments = (arguments,)
        elif isinstance(self.arguments, list):
            self.arguments.append(arguments)
        elif arguments:
            self.arguments = [arguments]

    def text(self) -> str:
        """Return the text of the arguments, which is empty if they arrived parsed."""
        if not isinstance(self.arguments, list):
            return ""
        if len(self.arguments) > 1:
            self.arguments = ["".join(self.arguments)]
        return self.arguments[0]

    def build(self, parse_arguments: bool) -> ChatMessageToolCall:
        arguments = self.text() if isinstance(self.arguments, list) else self.arguments[0]
        if parse_arguments:
            arguments = self._parse(arguments)
        function = ChatMessageToolCallFunction(arguments, self.name)
        return ChatMessageToolCall(
            function, self.id, self.type, join(self.provider_data) if self.provider_data else None, self.error
        )

    def _parse(self, arguments: Any) -> Any:
        if not isinstance(arguments, str) or len(arguments) <= LONG_TEXT:
            return _parse_arguments(arguments)
        if self._parsed[0] != arguments:
            self._parsed = (arguments, _parse_arguments(arguments))
        return self._parsed[1]


def accumulate(deltas: Iterable[ChatMessageStreamDelta], model_id: str | None = None) -> ChatMessage:
    """Return the message that consists of these deltas.

    Args:
        deltas: All deltas of a response, in order.
        model_id: The name of the model that was called. If a delta has a `model_id`, that name is used instead.

    Returns:
        The message. Arguments of its tool calls that are valid JSON are parsed. Other arguments stay text.
    """
    builder = MessageBuilder(model_id)
    for delta in deltas:
        builder.add(delta)
    return builder.message()


def _parse_arguments(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    if not arguments.strip():
        return {}  # If a call has no arguments, some services send "" instead of "{}".
    try:
        value = read_json(arguments)
    except ValueError:
        return arguments
    return {} if value is None else value  # Some models write `null` for a call without arguments.


def as_delta(response: Any) -> ChatMessageStreamDelta:
    """Return a complete response as one delta.

    Args:
        response: A `ChatMessage`, or any object that has a `content`. Its other fields are optional.

    Raises:
        AttributeError: The object has no `content`.
        ValueError: A tool call or the provider data is not valid.
    """
    calls = [tool_call_from(call) for call in getattr(response, "tool_calls", None) or ()]
    optional_fields = (
        "reasoning", "finish_reason", "stop_sequence", "parsed", "enforcement", "logprobs", "model_id", "raw",
    )  # fmt: skip
    values: dict[str, Any] = {name: getattr(response, name, None) for name in optional_fields}
    return ChatMessageStreamDelta(
        content=None if response.content is None else text_of(response.content),
        tool_calls=[
            ChatMessageToolCallStreamDelta(
                i,
                call.id,
                call.type,
                ChatMessageToolCallFunction(call.function.arguments_json(), call.function.name),
                call.provider_data,
            )
            for i, call in enumerate(calls)
        ]
        or None,
        token_usage=getattr(response, "token_usage", None),
        warnings=getattr(response, "warnings", None) or None,
        attempts=getattr(response, "attempts", None) or None,
        provider_data=provider_data_from(lambda name: getattr(response, name, None), MESSAGE_FIELDS),
        **values,
    )
