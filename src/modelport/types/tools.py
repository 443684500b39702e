"""Tools that a model may call, which of them it is to call, and whether its calls are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modelport.errors import InvalidRequest, InvalidToolCall
from modelport.types.messages import (
    ChatMessage,
    ChatMessageStreamDelta,
    ChatMessageToolCallFunction,
    accumulate,
    read_json,
)
from modelport.types.output_types import mismatch


@dataclass(frozen=True)
class Tool:
    """A tool as models are told of it.

    Args:
        name: Letters, digits, `_` and `-`, up to 64 of which all services take.
        description: What it does and when to use it.
        parameters: A JSON schema of type `object`.
        strict: OpenAI's word for a service that is to hold calls to the schema; sent where chat completions are spoken.
            Whatever is sent, a call is held against the schema before it is handed out.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """The tool in OpenAI's form."""
        told = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": told if self.strict is None else {**told, "strict": self.strict}}

    def check(self, arguments: Any) -> None:
        """Holds a call's arguments against the schema.

        Raises:
            ValueError: They don't fit; the message says where.
            InvalidRequest: The schema itself is broken.
        """
        if (problem := mismatch(self.parameters, arguments)) is not None:
            raise ValueError(problem)


@dataclass(frozen=True)
class NamedToolChoice:
    """The tool choice "call this tool"."""

    name: str


ToolChoice = Literal["auto", "none", "required"] | NamedToolChoice


def tool_choice_from(value: Any, tools: tuple[Tool, ...] | None = None) -> ToolChoice:
    """The tool choice that a caller's argument means.

    Args:
        value: `auto`, `none`, `required` (also `any`), a tool's name, or OpenAI's
            `{"type": "function", "function": {"name": …}}`.
        tools: The tools of the request; `None` where they are not known yet.

    Raises:
        InvalidRequest: It is none of these, or names a tool that is not there.
    """
    if value in ("auto", "none", "required"):
        if value == "required" and tools == ():
            raise InvalidRequest("tool_choice='required' needs tools: pass tools=[…]")
        return value  # type: ignore[no-any-return]
    if value == "any":
        return tool_choice_from("required", tools)
    name = value
    if isinstance(value, NamedToolChoice):
        name = value.name
    elif isinstance(value, dict):
        function = value.get("function")
        name = function.get("name") if isinstance(function, dict) else value.get("name")
    names = None if tools is None else [tool.name for tool in tools]
    if not isinstance(name, str) or (names is not None and name not in names):
        shown = value.name if isinstance(value, NamedToolChoice) else value
        known = "" if names is None else f" ({', '.join(map(repr, names)) or 'there are none'})"
        raise InvalidRequest(
            f"tool_choice={shown!r} is unknown; it must be 'auto', 'none', 'required' or the name of a tool{known}"
        )
    return NamedToolChoice(name)


def check_calls(
    message: ChatMessage,
    tools: tuple[Tool, ...],
    choice: ToolChoice = "auto",
    deltas: Sequence[ChatMessageStreamDelta] = (),
) -> None:
    """Holds a message's tool calls against the tools of the request, and against its tool choice.

    Args:
        message: The answer.
        tools: Those that the caller gave.
        choice: Which of them the caller wants called.
        deltas: What the message was folded from, for the text of the arguments as the model wrote it.

    Raises:
        InvalidToolCall: One is broken, or was not asked for; the error keeps its raw text and the whole message.
    """
    for place, call in enumerate(message.tool_calls or ()):
        if (problem := _problem_of(call.function, tools, choice)) is None:
            continue
        calls = accumulate(deltas, parses=False).tool_calls or message.tool_calls or ()
        written = calls[place].function.arguments_json() or "{}"
        if problem == _NO_OBJECT and not _is_json(written):
            problem = "its arguments are no valid JSON"
        cut = "; max_tokens cut the answer off" if message.finish_reason == "length" else ""
        raise InvalidToolCall(
            f"The model's tool call {place} ({call.function.name!r}) can't be used: {problem}{cut}",
            text=written,
            partial=message,
            model_id=message.model_id,
        )


_NO_OBJECT = "its arguments are a JSON string, and must be an object"


def _problem_of(call: ChatMessageToolCallFunction, tools: tuple[Tool, ...], choice: ToolChoice) -> str | None:
    """Why the call can't be used, in words; `None` where it can."""
    by_name = {tool.name: tool for tool in tools}
    if choice == "none":
        return "tool_choice='none' asks for no call"
    if isinstance(call.arguments, str):
        return _NO_OBJECT
    if call.name not in by_name:
        return f"there is no such tool; there are {', '.join(map(repr, by_name)) or 'none'}"
    if isinstance(choice, NamedToolChoice) and call.name != choice.name:
        return f"tool_choice asks for a call of {choice.name!r}"
    try:
        by_name[call.name].check(call.arguments)
    except ValueError as error:
        return f"its arguments don't fit the tool's schema {error}"
    except InvalidRequest as error:  # A definition that is but itself; it is not to count as an interruption.
        return error.message
    return None


def _is_json(text: str) -> bool:
    try:
        read_json(text)
    except ValueError:
        return False
    return True
