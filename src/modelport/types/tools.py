"""The tools that a model may call, the tool choice, and the validation of the calls that the model makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from modelport.errors import InvalidRequest, InvalidToolCall
from modelport.schema.json_text import excerpt, json_size_problem, read_json
from modelport.schema.validation import mismatch
from modelport.types.deltas import MessageBuilder
from modelport.types.messages import ChatMessage, ChatMessageToolCallFunction


@dataclass(frozen=True)
class Tool:
    """The definition of a tool, as it is sent to a model.

    Args:
        name: The tool's name. All services accept up to 64 letters, digits, `_` and `-`.
        description: What the tool does and when to use it.
        parameters: A JSON schema of type `object`.
        strict: `True` asks the service to enforce the schema with constrained decoding. Only services with the chat
            completions format receive this field. modelport always validates the arguments of a call itself.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the tool as a dict in the chat completions format."""
        function: dict[str, Any] = {"name": self.name, "description": self.description, "parameters": self.parameters}
        if self.strict is not None:
            function["strict"] = self.strict
        return {"type": "function", "function": function}

    def check(self, arguments: Any) -> None:
        """Validate a call's arguments against the schema.

        Raises:
            ValueError: The arguments are not valid; the message says where and why (`at $.city: …`).
            InvalidRequest: The schema itself is not valid.
        """
        if (problem := mismatch(self.parameters, arguments)) is not None:
            raise ValueError(problem)


@dataclass(frozen=True)
class NamedToolChoice:
    """A tool choice: the model must call the tool with this name."""

    name: str


ToolChoice = Literal["auto", "none", "required"] | NamedToolChoice


def errors_of_calls(
    message: ChatMessage,
    tools: tuple[Tool, ...],
    choice: ToolChoice = "auto",
    response: MessageBuilder | None = None,
) -> Iterator[tuple[int, InvalidToolCall]]:
    """Validate a message's tool calls against the tools and the tool choice of the request.

    Args:
        message: The model's message.
        tools: The tools of the request.
        choice: The tool choice of the request.
        response: The builder that accumulated the message, from which the unparsed text of the arguments is read.
            `None` if there is none; `InvalidToolCall.text` is then the parsed arguments as JSON.

    Yields:
        The position of each call that is not valid or not allowed, and its error, which has the text of the call's
            arguments (`text`) and the message (`partial`).
    """
    for index, call in enumerate(message.tool_calls or ()):
        if (problem := _problem_of(call.function, tools, choice)) is None:
            continue
        calls = (response.message(parse_arguments=False) if response is not None else message).tool_calls or ()
        raw_arguments = calls[index].function.arguments_json() or "{}"
        if problem == _NOT_AN_OBJECT:
            texts = [call.function.arguments for call in calls if isinstance(call.function.arguments, str)]
            problem = _problem_of_json(raw_arguments, texts) or problem
        truncated = "; the output was truncated by max_tokens" if message.finish_reason == "length" else ""
        error = InvalidToolCall(
            f"The model's tool call {index} ({excerpt(call.function.name)}) can't be used: {problem}{truncated}",
            text=raw_arguments,
            partial=message,
            model_id=message.model_id,
        )
        yield index, error


def check_calls(
    message: ChatMessage,
    tools: tuple[Tool, ...],
    choice: ToolChoice = "auto",
    response: MessageBuilder | None = None,
) -> None:
    """Raise the first error of a message's tool calls. The arguments are those of `errors_of_calls`.

    Raises:
        InvalidToolCall: A call is not valid or not allowed.
    """
    for _, error in errors_of_calls(message, tools, choice, response):
        raise error


_NOT_AN_OBJECT = "its arguments are a JSON string, and must be an object"


def _problem_of(call: ChatMessageToolCallFunction, tools: tuple[Tool, ...], choice: ToolChoice) -> str | None:
    """Return why the call can't be used, or `None` if it can."""
    by_name = {tool.name: tool for tool in tools}
    if choice == "none":
        return "tool_choice='none' does not allow a call"
    if isinstance(call.arguments, str):
        return _NOT_AN_OBJECT
    if call.name not in by_name:
        return f"there is no such tool; there are {', '.join(map(repr, by_name)) or 'none'}"
    if isinstance(choice, NamedToolChoice) and call.name != choice.name:
        return f"tool_choice allows only a call of {choice.name!r}"
    try:
        by_name[call.name].check(call.arguments)
    except ValueError as error:
        return f"its arguments don't fit the tool's schema {error}"
    except InvalidRequest as error:
        # The tool's schema is not valid, which is not the model's mistake. Still the caller gets an `InvalidToolCall`:
        # an `InvalidRequest` raised in mid-stream would be reported as a `StreamInterrupted`.
        return error.message
    return None


def _problem_of_json(text: str, texts: list[str]) -> str | None:
    """Return why arguments stayed text, or `None` if they are a JSON string.

    Args:
        text: The text of the arguments.
        texts: The texts of the arguments of all calls.
    """
    if (problem := json_size_problem(*texts)) is not None:
        return f"its arguments were not read, because {problem} for all calls together"
    try:
        read_json(text)
    except ValueError:
        return "its arguments contain no valid JSON"
    return None
