"""Conformance checks of tools: the values of `tool_choice`, parallel calls, results sent back, streamed calls.

If a model's capabilities do not include tools, modelport describes the tools in the prompt. A model that does not
follow such a prompt shows nothing about its backend, so a check that needs a call then has the outcome "not checked".
It still fails if modelport breaks one of its own promises: an invalid call was accepted, the warning is missing, or
another exception was raised. If the backend enforces every JSON schema, it must enforce a required call too.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any, NoReturn

from modelport.errors import InvalidToolCall, MalformedResponse, ModelError
from modelport.model import Model
from modelport.testing.check import Check, NotChecked
from modelport.testing.subject import Subject
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.messages import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction
from modelport.types.output_types import JSONSchema


def get_weather(city: str, days: int = 1) -> str:
    """Tells the weather of a city.

    Args:
        city: The city's name.
        days: For how many days.
    """
    return f"{city}: sunny for {days} days"


def add(a: int, b: int) -> int:
    """Adds two whole numbers."""
    return a + b


TOOLS = [get_weather, add]
_PREPARED_CALL = ChatMessageToolCall(ChatMessageToolCallFunction({"city": "Paris"}, "get_weather"), "call_1")


def request_calls(
    model: Model, prompt: str, names: Set[str], *, streamed: bool = False, **options: Any
) -> tuple[ChatMessage, list[ChatMessageStreamDelta]]:
    """Request tool calls, and check those that the model makes.

    Args:
        model: The model that `subject.make` has returned.
        prompt: The prompt.
        names: The names of the tools that may be called.
        streamed: Whether the call streams.
        **options: Options of the call.

    Returns:
        The message with its calls, and the deltas of the stream; without streaming, no deltas.

    Raises:
        AssertionError: There is no call, a call can't be used, or the warning is missing.
        ModelError: The model supports tools, and made no call that can be used.
        NotChecked: The tools were in the prompt, and the model made no call that can be used.
    """
    options = {"tools": TOOLS, "tool_choice": "required", "temperature": 0, "max_tokens": 200, **options}
    deltas: list[ChatMessageStreamDelta] = []
    try:
        if streamed:
            with model.generate_stream(prompt, **options) as stream:
                deltas = list(stream)
            message = stream.message
        else:
            message = model.generate(prompt, **options)
    except (InvalidToolCall, MalformedResponse) as error:
        raise_for_invalid_call(error, model, options["tool_choice"])
    if not message.tool_calls and _has_own_generate(model):
        raise NotChecked("the model's own `generate` received the tools, and made no call")
    _assert_usable_calls(message, names)
    assert_tools_warning(model, message)
    return message, deltas


def _assert_usable_calls(message: ChatMessage, names: Set[str]) -> None:
    assert message.tool_calls, f"there is no tool call; the text is {message.text!r}"
    assert message.finish_reason == "tool_calls", f"finish_reason is {message.finish_reason!r}"
    identifiers = [call.id for call in message.tool_calls]
    assert all(identifiers) and len(set(identifiers)) == len(identifiers), f"the calls' ids are {identifiers}"
    for call in message.tool_calls:
        assert call.function.name in names, f"{call.function.name!r} was called"
        assert isinstance(call.function.arguments, dict), f"the arguments are {call.function.arguments!r}"


def raise_for_invalid_call(error: ModelError, model: Model, tool_choice: str) -> NoReturn:
    """Raise the error, or `NotChecked` if the tools were in the prompt and nothing made the model follow it."""
    capabilities = model.capabilities
    # The layers let such a backend enforce the JSON of a required call. max_tokens may still truncate it.
    is_enforced = tool_choice != "auto" and JSONSchema in capabilities.grammars and capabilities.schema_rules is None
    is_truncated = error.partial is not None and error.partial.finish_reason == "length"
    if capabilities.tools or (is_enforced and not is_truncated):
        raise error
    raise NotChecked(f"the model did not follow the tools in the prompt: {error}") from None


def assert_tools_warning(model: Model, message: ChatMessage) -> None:
    """Assert that a message has a warning if its request had the tools in the prompt."""
    if not model.capabilities.tools and not _has_own_generate(model):
        assert message.warnings, "no warning says that the tools were put into the prompt"


def _has_own_generate(model: Model) -> bool:
    """Return whether synchronous calls run only the author's own `generate`, without the layers."""
    return type(model).deltas is Model.deltas and type(model).generate is not Model.generate


def tool_choice_auto(subject: Subject, model: Model) -> str:
    """The model may call a tool or answer in text. An invalid call raises `InvalidToolCall` with the text of the call.

    An answer in text is correct, but it shows nothing about tools: the outcome is then "not checked".
    """
    try:
        message = model.generate(subject.prompt("tool"), tools=TOOLS, temperature=0, max_tokens=150)
    except (InvalidToolCall, MalformedResponse) as error:
        if not isinstance(error, InvalidToolCall) or not model.capabilities.tools:
            raise_for_invalid_call(error, model, "auto")
        assert error.text
        return "an invalid call"
    assert_tools_warning(model, message)
    if message.tool_calls:
        _assert_usable_calls(message, {"get_weather", "add"})
        return "a valid call"
    assert message.text
    prompted = "" if model.capabilities.tools else "the model did not follow the tools in the prompt: "
    raise NotChecked(f"{prompted}the model answered in text, as it may")


def tool_choice_required(subject: Subject, model: Model) -> None:
    """The model must call a tool, and the call is valid. With `tool_errors="return"`, an unusable call is no error."""
    request_calls(model, subject.prompt("tool"), {"get_weather", "add"})
    if not _has_own_generate(model):
        truncated = model.generate(
            subject.prompt("tool"), tools=TOOLS, tool_choice="required", tool_errors="return", temperature=0,
            max_tokens=3,
        )  # fmt: skip
        is_marked = any(warning.type == "invalid" for warning in truncated.warnings)
        assert is_marked or (truncated.tool_calls and not any(call.error for call in truncated.tool_calls)), (
            f"the calls of a truncated response are neither usable nor marked as errors: {truncated!r}"
        )


def tool_choice_named(subject: Subject, model: Model) -> None:
    """The model must call the named tool."""
    request_calls(model, subject.prompt("tool"), {"get_weather"}, tool_choice="get_weather")


def tool_choice_none(subject: Subject, model: Model) -> None:
    """The model must not call a tool."""
    message = model.generate(subject.prompt("plain"), tools=TOOLS, tool_choice="none", temperature=0, max_tokens=40)
    assert not message.tool_calls and message.text, f"{message!r}"


def parallel_tool_calls(subject: Subject, model: Model) -> str:
    """Several calls in one response are separate, each with its own id."""
    message, _ = request_calls(
        model, subject.prompt("two tools"), {"get_weather"}, tools=[get_weather], parallel_tool_calls=True,
        max_tokens=400,
    )  # fmt: skip
    calls = message.tool_calls or ()
    if len(calls) == 1:
        raise NotChecked("the model made 1 call; the check needs several")
    return f"{len(calls)} calls"


def tool_results(subject: Subject, model: Model) -> None:
    """A call and its result can be sent back, in OpenAI's message format and in that of the smolagents package."""
    try:
        calling, _ = request_calls(model, subject.prompt("tool"), {"get_weather"}, tool_choice="get_weather")
    except NotChecked:
        # The model must accept a call and its result even if it does not make such a call itself.
        _send_results(subject, model, ChatMessage("assistant", None, [_PREPARED_CALL]))
        raise
    _send_results(subject, model, calling)


def _send_results(subject: Subject, model: Model, calling: ChatMessage) -> None:
    """Send a message that calls `get_weather` back with the tool's result, and check the responses."""
    assert calling.tool_calls
    call = calling.tool_calls[0]
    question = {"role": "user", "content": subject.prompt("tool")}
    result = get_weather(**call.function.arguments)
    openai_result = {"role": "tool", "tool_call_id": call.id, "content": result}
    smolagents_result = {
        "role": "tool-response", "content": [{"type": "text", "text": result}], "tool_call_id": call.id,
    }  # fmt: skip
    for history in ([question, calling, openai_result], [question, calling.to_dict(), smolagents_result]):
        message = model.generate(history, tools=TOOLS, tool_choice="none", temperature=0, max_tokens=40)
        assert message.text and not message.tool_calls, f"{message!r}"
        # The history must also be accepted if the request offers no tools.
        model.generate(history, temperature=0, max_tokens=8)


def streamed_tool_calls(subject: Subject, model: Model) -> None:
    """The tool calls of a stream accumulate to the calls of a non-streaming response."""
    complete, _ = request_calls(model, subject.prompt("tool"), {"get_weather", "add"})
    try:
        message, deltas = request_calls(model, subject.prompt("tool"), {"get_weather", "add"}, streamed=True)
    except NotChecked as reason:
        assert not subject.deterministic, f"the model calls a tool, but not in a stream: {reason}"
        raise
    if subject.deterministic:
        expected, streamed = (
            [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
            for message in (complete, message)
        )
        assert streamed == expected, f"streamed {streamed}, not streamed {expected}"
    assert all(call.index is not None for delta in deltas for call in delta.tool_calls or ())
    if not any(delta.tool_calls for delta in deltas[:-1]):
        raise NotChecked("the calls came only in the last delta")


CHECKS = (
    Check("tools: auto", "The model may call a tool.", tool_choice_auto),
    Check("tools: required", "The model must call a tool, and the call is valid.", tool_choice_required),
    Check("tools: named", "The model must call the named tool.", tool_choice_named),
    Check("tools: none", "The model must not call a tool.", tool_choice_none),
    Check(
        "parallel tool calls", "Several calls in one response are separate.", parallel_tool_calls,
        is_supported=lambda c: c.parallel_tool_calls,
    ),
    Check("tool results", "A call and its result can be sent back.", tool_results),
    Check("streamed tool calls", "Streamed calls equal those of a non-streaming response.", streamed_tool_calls),
)  # fmt: skip
