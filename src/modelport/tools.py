"""Tools that a model may call, which of them it is to call, and whether its calls are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from modelport.errors import InvalidRequest, InvalidToolCall
from modelport.grammar import mismatch
from modelport.messages import ChatMessage


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
class Named:
    """The tool choice "call this tool"."""

    name: str


ToolChoice = Literal["auto", "none", "required"] | Named


def tool_choice_from(value: Any, tools: tuple[Tool, ...]) -> ToolChoice:
    """The tool choice that a caller's argument means.

    Args:
        value: `auto`, `none`, `required` (also `any`), a tool's name, or OpenAI's
            `{"type": "function", "function": {"name": …}}`.
        tools: The tools of the request.

    Raises:
        InvalidRequest: It is none of these, or names a tool that is not there.
    """
    if value in ("auto", "none", "required"):
        if value == "required" and not tools:
            raise InvalidRequest("tool_choice='required' needs tools: pass tools=[…]")
        return value  # type: ignore[no-any-return]
    if value == "any":
        return tool_choice_from("required", tools)
    name = value
    if isinstance(value, Named):
        name = value.name
    elif isinstance(value, dict):
        function = value.get("function")
        name = function.get("name") if isinstance(function, dict) else value.get("name")
    names = [tool.name for tool in tools]
    if not isinstance(name, str) or name not in names:
        raise InvalidRequest(
            f"tool_choice={value!r} is unknown; it must be 'auto', 'none', 'required' or the name of a tool "
            f"({', '.join(map(repr, names)) or 'there are none'})"
        )
    return Named(name)


def check_calls(message: ChatMessage, tools: tuple[Tool, ...]) -> None:
    """Holds a message's tool calls against the tools of the request.

    Raises:
        InvalidToolCall: One is broken; the error keeps its raw text and the whole message.
    """
    by_name = {tool.name: tool for tool in tools}
    for place, call in enumerate(message.tool_calls or ()):
        name, arguments = call.function.name, call.function.arguments
        if isinstance(arguments, str):
            problem = "its arguments are no valid JSON"
        elif name not in by_name:
            problem = f"there is no such tool; there are {', '.join(map(repr, by_name)) or 'none'}"
        else:
            try:
                by_name[name].check(arguments)
                continue
            except ValueError as error:
                problem = f"its arguments don't fit the tool's schema {error}"
        raise InvalidToolCall(
            f"The model's tool call {place} ({name!r}) can't be used: {problem}",
            text=call.function.arguments_json(),
            partial=message,
            model_id=message.model_id,
        )
