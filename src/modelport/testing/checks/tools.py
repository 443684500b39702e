"""Rows about tools: the four choices, parallel calls, results sent back, streamed calls."""

from __future__ import annotations

from typing import Any

from modelport.errors import InvalidToolCall
from modelport.model import Model
from modelport.testing.conformance import Check, NotChecked, Subject
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


def _usable(message: ChatMessage, names: set[str]) -> None:
    assert message.tool_calls, f"there is no call; the model said {message.text!r}"
    assert message.finish_reason == "tool_calls", f"finish_reason is {message.finish_reason!r}"
    identifiers = [call.id for call in message.tool_calls]
    assert all(identifiers) and len(set(identifiers)) == len(identifiers), f"the calls' ids are {identifiers}"
    for call in message.tool_calls:
        assert call.function.name in names, f"{call.function.name!r} was called"
        assert isinstance(call.function.arguments, dict), f"the arguments are {call.function.arguments!r}"


def auto(subject: Subject, model: Model) -> str:
    """The model may call a tool or answer; a call that is none is `InvalidToolCall` with its text.

    An answer is right too, but shows nothing of tools.
    """
    try:
        message = model.generate(subject.prompt("tool"), tools=TOOLS, temperature=0, max_tokens=150)
    except InvalidToolCall as error:
        assert error.text
        return "it tried a call"
    if message.tool_calls:
        _usable(message, {"get_weather", "add"})
        return "it called"
    assert message.text
    raise NotChecked("the model answered without a call, as it may")


def required(subject: Subject, model: Model) -> None:
    """The model must call a tool, and the call is valid."""
    message = model.generate(subject.prompt("tool"), tools=TOOLS, tool_choice="required", temperature=0, max_tokens=200)
    _usable(message, {"get_weather", "add"})


def named(subject: Subject, model: Model) -> None:
    """The model must call one tool."""
    message = model.generate(
        subject.prompt("tool"), tools=TOOLS, tool_choice="get_weather", temperature=0, max_tokens=200
    )
    _usable(message, {"get_weather"})


def none(subject: Subject, model: Model) -> None:
    """The model must not call a tool."""
    message = model.generate(subject.prompt("plain"), tools=TOOLS, tool_choice="none", temperature=0, max_tokens=40)
    assert not message.tool_calls and message.text, f"{message!r}"


def parallel(subject: Subject, model: Model) -> str:
    """Several calls in one answer are kept apart."""
    message = model.generate(
        subject.prompt("two tools"), tools=[get_weather], tool_choice="required", parallel_tool_calls=True,
        temperature=0, max_tokens=400,
    )  # fmt: skip
    _usable(message, {"get_weather"})
    assert message.tool_calls
    if len(message.tool_calls) == 1:
        raise NotChecked("the model made 1 call; only several can be kept apart")
    return f"{len(message.tool_calls)} calls"


def round_trip(subject: Subject, model: Model) -> None:
    """A call and its result go back to the model, which answers; in OpenAI's form and in the agents'."""
    question = {"role": "user", "content": subject.prompt("tool")}
    asked = model.generate([question], tools=TOOLS, tool_choice="get_weather", temperature=0, max_tokens=200)
    assert asked.tool_calls
    call = asked.tool_calls[0]
    result = get_weather(**call.function.arguments)
    as_agents_write = {"role": "tool-response", "content": [{"type": "text", "text": result}], "tool_call_id": call.id}
    for history in (
        [question, asked, {"role": "tool", "tool_call_id": call.id, "content": result}],
        [question, asked.to_dict(), as_agents_write],
    ):
        answer = model.generate(history, tools=TOOLS, tool_choice="none", temperature=0, max_tokens=40)
        assert answer.text and not answer.tool_calls, f"{answer!r}"
        model.generate(history, temperature=0, max_tokens=8)  # and without naming the tools again


def streamed(subject: Subject, model: Model) -> None:
    """Calls of a stream accumulate to those of a whole answer."""
    options: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "temperature": 0, "max_tokens": 200}
    whole = model.generate(subject.prompt("tool"), **options)
    with model.generate_stream(subject.prompt("tool"), **options) as stream:
        deltas = list(stream)
    _usable(stream.message, {"get_weather", "add"})
    assert whole.tool_calls and stream.message.tool_calls
    if subject.strict_text:
        a, b = ([(c.function.name, c.function.arguments) for c in m.tool_calls or ()] for m in (whole, stream.message))
        assert a == b, f"streamed {b}, whole {a}"
    assert all(piece.index is not None for delta in deltas for piece in delta.tool_calls or ())
    if not any(delta.tool_calls for delta in deltas[:-1]):
        raise NotChecked("the calls came only in the last delta")


CHECKS = (
    Check("tools: auto", "The model may call a tool", auto),
    Check("tools: required", "It must call one, and the call is valid", required),
    Check("tools: named", "It must call this one", named),
    Check("tools: none", "It must call none", none),
    Check("parallel calls", "Several calls are kept apart", parallel, lambda c: c.parallel_tool_calls),
    Check("tool results", "A call and its result go back", round_trip),
    Check("streamed calls", "They equal whole calls", streamed),
)
