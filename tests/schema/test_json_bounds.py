"""Whatever a model writes, parsing it takes little processor time, on the loop too."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from pydantic import BaseModel

from modelport import ChatMessage, InvalidOutput, InvalidToolCall, MalformedResponse, accumulate
from modelport.backend.errors import from_status
from modelport.errors import InvalidRequest
from modelport.inputs.calls_in_text import find_tool_call
from modelport.layers.adapt.prompted_tools import read_calls
from modelport.local.bounds import parsed_arguments
from modelport.local.template_formats import library_format
from modelport.protocols.output_text.call_formats import TAGGED_JSON
from modelport.schema.json_text import (
    MAX_JSON_COMMAS,
    MAX_JSON_CONTAINERS,
    MAX_JSON_DEPTH,
    MAX_JSON_LENGTH,
    excerpt,
    read_json,
)
from modelport.testing import ScriptedModel
from modelport.types import deltas as deltas_module
from modelport.types.capabilities import Capabilities
from modelport.types.deltas import ChatMessageStreamDelta as Delta
from modelport.types.deltas import ChatMessageToolCallStreamDelta as CallDelta
from modelport.types.deltas import MessageBuilder
from modelport.types.messages import ChatMessageToolCallFunction as Function
from modelport.types.tools import Tool, check_calls

#: The most seconds of processor time that one response may take. The slowest of these cases takes a third of it here.
MOST_SECONDS = 1.5

MANY_LISTS = f"[{'[],' * MAX_JSON_CONTAINERS}1]"
MANY_COMMAS = f"[{'1,' * (MAX_JSON_COMMAS + 1)}1]"
LONG = f'["{"x" * MAX_JSON_LENGTH}"]'
TOO_LARGE = [
    pytest.param(MANY_LISTS, "lists", id="lists"),
    pytest.param(MANY_COMMAS, "commas", id="commas"),
    pytest.param(LONG, "characters", id="length"),
]


class Box(BaseModel):
    a: list[Any]


def read(text: str, forced: bool = False, parse: Callable[[str], Any] | None = None, size: int = 2**20) -> ChatMessage:
    async def backend() -> AsyncGenerator[Delta, None]:
        for start in range(0, len(text), size):
            yield Delta(content=text[start : start + size])
        yield Delta(finish_reason="stop")

    async def work() -> list[Delta]:
        call_format = (
            library_format("<tool_call>", "</tool_call>", lambda text, _: parse(text)) if parse else TAGGED_JSON
        )
        return [delta async for delta in read_calls(backend(), forced, call_format)]

    return accumulate(asyncio.run(work()))


@pytest.fixture
def processor_time() -> Any:
    start = time.process_time()
    yield
    assert time.process_time() - start < MOST_SECONDS


# --- every reader of JSON that a model wrote --------------------------------------------------------------------------


@pytest.mark.parametrize("text, reason", TOO_LARGE)
def test_read_json_too_large_raises_with_count_and_bound(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"{reason}.* at most \d+ "):
        read_json(text)


@pytest.mark.parametrize(
    "text",
    [
        f"[{'[],' * (MAX_JSON_CONTAINERS - 2)}[]]",
        f"[{'1,' * MAX_JSON_COMMAS}1]",
        f'"{"x" * (MAX_JSON_LENGTH - 2)}"',
    ],
    ids=["lists", "commas", "length"],
)
def test_read_json_at_the_bound_accepts(text: str) -> None:
    read_json(text)


@pytest.mark.parametrize("text, reason", TOO_LARGE)
@pytest.mark.parametrize("grammar", [{"type": "array"}, {"type": "object"}, Box], ids=["array", "object", "model"])
def test_output_too_large_is_invalid_and_not_parsed(text: str, reason: str, grammar: Any) -> None:
    with pytest.raises(InvalidOutput, match=rf"{reason}.* at most \d+ "):
        ScriptedModel(*[text] * 3).generate("?", grammar=grammar)


@pytest.mark.parametrize("text, reason", TOO_LARGE)
@pytest.mark.parametrize("calls", [1, 1000])
def test_arguments_too_large_stay_text_and_the_error_names_the_bound(text: str, reason: str, calls: int) -> None:
    step = len(text) // calls + 4
    builder = MessageBuilder()
    if calls == 1:
        pieces = [text[start : start + 2**16] for start in range(0, len(text), 2**16)]
        for piece in pieces:
            builder.add(Delta(tool_calls=[CallDelta(0, "c", "function", Function(piece, "f"))]))
    else:  # Each is small, and they are too large together.
        piece = f"[{text[1:step]}]" if reason != "length" else f'["{"x" * step}"]'
        for index in range(calls):
            builder.add(Delta(tool_calls=[CallDelta(index, "c", "function", Function(piece, "f"))]))
    message = builder.message()
    assert {type(call.function.arguments) for call in message.tool_calls or ()} == {str}
    with pytest.raises(InvalidToolCall, match=rf"{reason}.* at most \d+ .*all calls together"):
        check_calls(message, (Tool("f", "", {"type": "object"}),), "auto", builder)


@pytest.mark.parametrize("text, reason", TOO_LARGE)
def test_partial_of_text_too_large_is_none(text: str, reason: str) -> None:
    stream = ScriptedModel(text).generate_stream("?")
    for _ in stream:
        pass
    assert stream.partial is None


@pytest.mark.parametrize("text, reason", TOO_LARGE)
def test_parse_tool_calls_of_text_too_large_raises_with_the_bound(text: str, reason: str) -> None:
    with pytest.raises(InvalidToolCall, match=reason):
        find_tool_call(ChatMessage("assistant", text), "name", "arguments")


@pytest.mark.parametrize("text, reason", TOO_LARGE)
def test_arguments_in_a_prompt_too_large_raise(text: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        parsed_arguments(text)


@pytest.mark.parametrize("body", [MANY_LISTS, LONG, "[" * 100_000])
def test_from_status_of_a_body_too_large_or_too_deep_quotes_it_as_text(body: str) -> None:
    assert type(from_status(500, body)).__name__ == "ServerError"


@pytest.mark.parametrize("text", ['{"a": "' + "x" * 200_000 + '"}', "{" + "x" * 200_000], ids=["valid", "invalid"])
def test_long_arguments_are_parsed_once(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []

    def read_and_record(text: str) -> Any:
        parsed.append(text)
        return read_json(text)

    monkeypatch.setattr(deltas_module, "read_json", read_and_record)
    builder = MessageBuilder()
    for piece in (text[:50], text[50:]):
        builder.add(Delta(tool_calls=[CallDelta(0, "c", "function", Function(piece, "f"))]))
        messages = [builder.message() for _ in range(3)]
    assert parsed.count(text) == 1
    assert [message.tool_calls[0].function.arguments for message in messages if message.tool_calls] == [
        json.loads(text) if text.endswith("}") else text
    ] * 3


# --- tools in the prompt ----------------------------------------------------------------------------------------------

WORD = "x" * 2_000_000
PIECE = f'"{WORD}",{"[]," * 1000}'


@pytest.mark.parametrize("forced", [False, True])
def test_read_calls_of_a_list_without_calls_has_one_invalid_call(forced: bool, processor_time: None) -> None:
    text = f"[{PIECE}[]]"
    message = read(text if forced else f"<tool_call>{text}</tool_call>", forced)
    assert [(call.function.name, call.function.arguments == text) for call in message.tool_calls or ()] == [("", False)]
    assert message.tool_calls is not None
    assert message.tool_calls[0].function.arguments == json.loads(text)


def test_read_calls_keeps_calls_beside_an_invalid_item() -> None:
    text = '[{"name": "a"}, 1, {"name": "b"}, 2]'
    message = read(f"<tool_call>{text}</tool_call>")
    assert [call.function.name for call in message.tool_calls or ()] == ["a", "", "b"]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "f"}</tool_call>' * 1025,
        "<tool_call>x</tool_call>" * 1025,
        "<tool_call></tool_call>" * 300_000,
        f"<tool_call>{json.dumps([{'name': 'f'}] * 1025)}",
        f"<tool_call>{json.dumps([{'name': 'f'}] * 600)}</tool_call>" * 2,
    ],
    ids=["objects", "broken", "empty", "list", "lists"],
)
def test_read_calls_with_too_many_calls_raises_while_collecting(
    text: str, monkeypatch: pytest.MonkeyPatch, processor_time: None
) -> None:
    monkeypatch.setattr("uuid.uuid4", lambda: pytest.fail("a call was made"))
    with pytest.raises(MalformedResponse, match="more than 1024 tool calls"):
        read(text)


def test_read_calls_with_the_most_calls_returns_them() -> None:
    assert len(read('<tool_call>{"name": "f"}</tool_call>' * 1024).tool_calls or ()) == 1024


@pytest.mark.parametrize(
    "text",
    [
        f"<tool_call>{MANY_LISTS}</tool_call>",
        f"<tool_call>{LONG}</tool_call>",
        f"<tool_call>[{PIECE * 9}",
        "<tool_call>" + '{"name": "f", "arguments": {' + ", ".join(f'"k{i}": 1.5' for i in range(200_000)) + "}}",
        "<tool_call>{" + ", ".join(f'"k{i}": 1.5' for i in range(200_000)) + ', "name": "f", "arguments": {}}',
        '<tool_call>{"name": "f", "arguments": {"a": "' + "\\n" * 2_000_000 + '"}}',
        '<tool_call>{"' + '\\"' * 2_000_000 + '": 1, "name": "f", "arguments": {}}',
    ],
    ids=["lists", "length", "20 MB", "many arguments", "many keys", "escapes", "a long key"],
)
def test_read_calls_of_a_large_call_takes_little_time(text: str, processor_time: None) -> None:
    assert len(read(text).tool_calls or ()) == 1


@pytest.mark.parametrize("error", [AttributeError, SyntaxError, TypeError, KeyError, RecursionError])
def test_read_calls_with_a_parser_that_fails_returns_an_invalid_call(error: type[Exception]) -> None:
    def parse(text: str) -> Any:
        raise error("broken")

    message = read("<tool_call>text</tool_call>", parse=parse)
    assert [(call.function.name, call.function.arguments) for call in message.tool_calls or ()] == [("", "text")]


def test_call_that_is_too_large_is_an_invalid_tool_call_of_the_model() -> None:
    model = ScriptedModel(f"<tool_call>{MANY_LISTS}</tool_call>", capabilities=Capabilities(tools=False))
    tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}
    with pytest.raises(InvalidToolCall, match="lists"):
        model.generate("?", tools=[tool])


# --- calls in text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"a":[' * 900 + "1," * 100_000,
        '{"a":' * 5000 + "1" * 3_000_000,
        ('{"a":' * 900 + "x") * 140,
        ("\n" * 60 + '{"') * 100_000,
        "\n" * 7_000_000 + '{"' * 100_000,
        '{"a":' + "1" * 5000 + "}" + '{"a":' * 100_000,
        "{" * 120_000 + " " * 5_000_000,
        ('{"a": "' + "x" * 60) * 100_000,
    ],
    ids=["levels", "deep", "many", "lines", "late", "digits", "braces", "strings"],
)
def test_parse_tool_calls_of_hostile_text_takes_little_time(text: str, processor_time: None) -> None:
    with pytest.raises(InvalidToolCall):
        find_tool_call(ChatMessage("assistant", text), "name", "arguments")


@pytest.mark.parametrize(
    "text",
    [
        '{"thought": {"name": "f", "arguments": {"a": 1}} and so on',
        '{"a": [1, {"name": "f", "arguments": {"a": 1}}',
        'if (x) { return "y" } {"name": "f", "arguments": {"a": 1}}',
        '{"a": ' * 500 + '{"name": "f", "arguments": {"a": 1}}',
        '{"a": 1} {"name": 5} {"name": "f", "arguments": {"a": 1}} {"name": "g"}',
        '{ \n "name": "f", "arguments": "{\\"a\\": 1}"}',
        "{}" * 1000 + '{"name": "f", "arguments": {"a": 1}}',
        '{"a": 1,' + "x" * 2_000_000 + '{"name": "f", "arguments": {"a": 1}}',
    ],
)
def test_parse_tool_calls_finds_a_call_inside_and_behind_broken_json(text: str) -> None:
    call = find_tool_call(ChatMessage("assistant", text), "name", "arguments")
    assert (call.function.name, call.function.arguments) == ("f", {"a": 1})


def nested(levels: int, inner: str = "") -> str:
    """Return JSON of so many levels: lists and objects by turns."""
    pairs = [('{"a":', "}"), ("[", "]")]
    begin = "".join(pairs[n % 2][0] for n in range(levels - 1, -1, -1))
    return begin + (inner or ("1" if levels else "")) + "".join(pairs[n % 2][1] for n in range(levels))


@pytest.mark.parametrize(("levels", "accepted"), [(MAX_JSON_DEPTH, True), (MAX_JSON_DEPTH + 1, False), (900, False)])
def test_json_of_too_many_levels_is_not_parsed(levels: int, accepted: bool) -> None:
    """Python's parser reads 990 levels, but a message with them could not be stored, printed, pickled or sent back."""
    text = nested(levels)
    if accepted:
        assert json.dumps(read_json(text), separators=(",", ":")) == text
        return
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(text)
    with pytest.raises(InvalidToolCall, match="128 levels"):
        find_tool_call(ChatMessage("assistant", f'{{"name": "f", "arguments": {text}}}'), "name", "arguments")
    call = CallDelta(0, "c1", "function", Function(f'{{"a": {text}}}', "f"))
    message = accumulate([Delta(tool_calls=[call])])
    assert message.tool_calls and isinstance(message.tool_calls[0].function.arguments, str)
    with pytest.raises(InvalidToolCall):
        check_calls(message, (Tool("f", "", {"type": "object"}),), "auto", None)


def test_many_values_that_are_not_nested_are_parsed() -> None:
    flat = f"[{','.join(['[]'] * 300)}]"
    assert len(read_json(flat)) == 300


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, [["x"] * 10**5], 10**5000, {"a": {1, 2}}, object(), b"x" * 10**6],
    ids=lambda v: type(v).__name__,
)
def test_excerpt_of_any_value_is_short(value: Any) -> None:
    assert 0 < len(excerpt(value)) <= 201


def test_excerpt_of_an_object_that_raises_names_its_type() -> None:
    class Raises:
        def __repr__(self) -> str:
            raise RuntimeError

    assert "Raises" in excerpt(Raises())


def test_error_about_a_call_of_an_unknown_tool_is_short() -> None:
    message = accumulate([Delta(tool_calls=[CallDelta(0, "c1", "function", Function("{}", "x" * 10**6))])])
    with pytest.raises(InvalidToolCall, match="no such tool") as raised:
        check_calls(message, (Tool("f", "", {"type": "object"}),), "auto", None)
    assert len(str(raised.value)) < 1000
