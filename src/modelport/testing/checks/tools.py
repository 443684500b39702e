"""Conformance checks of tools: the values of `tool_choice`, parallel calls, results sent back, streamed calls."""

from __future__ import annotations

from typing import Any

from modelport.errors import InvalidToolCall
from modelport.model import Model
from modelport.testing.check import Check, NotChecked
from modelport.testing.subject import Subject
from modelport.types.messages import ChatMessage


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


def _assert_usable_calls(message: ChatMessage, names: set[str]) -> None:
    assert message.tool_calls, f"there is no tool call; the text is {message.text!r}"
    assert message.finish_reason == "tool_calls", f"finish_reason is {message.finish_reason!r}"
    identifiers = [call.id for call in message.tool_calls]
    assert all(identifiers) and len(set(identifiers)) == len(identifiers), f"the calls' ids are {identifiers}"
    for call in message.tool_calls:
        assert call.function.name in names, f"{call.function.name!r} was called"
        assert isinstance(call.function.arguments, dict), f"the arguments are {call.function.arguments!r}"


def tool_choice_auto(subject: Subject, model: Model) -> str:
    """The model may call a tool or answer in text. An invalid call raises `InvalidToolCall` with the text of the call.

    An answer in text is correct, but it shows nothing about tools: the outcome is then "not checked".
    """
    try:
        message = model.generate(subject.prompt("tool"), tools=TOOLS, temperature=0, max_tokens=150)
    except InvalidToolCall as error:
        assert error.text
        return "an invalid call"
    if message.tool_calls:
        _assert_usable_calls(message, {"get_weather", "add"})
        return "a valid call"
    assert message.text
    raise NotChecked("the model answered in text, as it may")


def tool_choice_required(subject: Subject, model: Model) -> None:
    """The model must call a tool, and the call is valid."""
    message = model.generate(subject.prompt("tool"), tools=TOOLS, tool_choice="required", temperature=0, max_tokens=200)
    _assert_usable_calls(message, {"get_weather", "add"})


def tool_choice_named(subject: Subject, model: Model) -> None:
    """The model must call the named tool."""
    message = model.generate(
        subject.prompt("tool"), tools=TOOLS, tool_choice="get_weather", temperature=0, max_tokens=200
    )
    _assert_usable_calls(message, {"get_weather"})


def tool_choice_none(subject: Subject, model: Model) -> None:
    """The model must not call a tool."""
    message = model.generate(subject.prompt("plain"), tools=TOOLS, tool_choice="none", temperature=0, max_tokens=40)
    assert not message.tool_calls and message.text, f"{message!r}"


def parallel_tool_calls(subject: Subject, model: Model) -> str:
    """Several calls in one response are separate, each with its own id."""
    message = model.generate(
        subject.prompt("two tools"), tools=[get_weather], tool_choice="required", parallel_tool_calls=True,
        temperature=0, max_tokens=400,
    )  # fmt: skip
    _assert_usable_calls(message, {"get_weather"})
    assert message.tool_calls
    if len(message.tool_calls) == 1:
        raise NotChecked("the model made 1 call; the check needs several")
    return f"{len(message.tool_calls)} calls"


def tool_results(subject: Subject, model: Model) -> None:
    """A call and its result can be sent back, in OpenAI's message format and in that of the smolagents package."""
    question = {"role": "user", "content": subject.prompt("tool")}
    calling = model.generate([question], tools=TOOLS, tool_choice="get_weather", temperature=0, max_tokens=200)
    assert calling.tool_calls
    call = calling.tool_calls[0]
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
    options: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "temperature": 0, "max_tokens": 200}
    complete = model.generate(subject.prompt("tool"), **options)
    with model.generate_stream(subject.prompt("tool"), **options) as stream:
        deltas = list(stream)
    _assert_usable_calls(stream.message, {"get_weather", "add"})
    assert complete.tool_calls and stream.message.tool_calls
    if subject.deterministic:
        expected, streamed = (
            [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
            for message in (complete, stream.message)
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
