"""Tools that a model may call, which of them it is to call, and whether its calls are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from modelport.errors import InvalidRequest, InvalidToolCall
from modelport.schema.json_text import read_json
from modelport.schema.validation import mismatch
from modelport.types.deltas import MessageBuilder
from modelport.types.messages import ChatMessage, ChatMessageToolCallFunction


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


def check_calls(
    message: ChatMessage,
    tools: tuple[Tool, ...],
    choice: ToolChoice = "auto",
    response: MessageBuilder | None = None,
) -> None:
    """Holds a message's tool calls against the tools of the request, and against its tool choice.

    Args:
        message: The answer.
        tools: Those that the caller gave.
        choice: Which of them the caller wants called.
        response: The builder of the message, for the text of the arguments as the model wrote it.

    Raises:
        InvalidToolCall: One is broken, or was not asked for; the error keeps its raw text and the whole message.
    """
    for place, call in enumerate(message.tool_calls or ()):
        if (problem := _problem_of(call.function, tools, choice)) is None:
            continue
        calls = (response.message(parse_arguments=False) if response is not None else message).tool_calls or ()
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
