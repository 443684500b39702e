"""Structured output: `strict`, schema subsets, with tools, truncated, in a stream, and wrapped in an object."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from modelport.errors import InvalidOutput, InvalidRequest, InvalidToolCall, StreamInterrupted, UnsupportedFeature
from modelport.remote.schema_subsets import OPENAI
from modelport.types.messages import ChatMessage
from modelport.types.output_types import Choice, JSONSchema, Lark, Regex
from modelport.types.request import Request
from modelport.types.usage import TokenUsage

from .adapt_backend import DATE, SCHEMA, TIME, Delta, Person, ScriptedBackend, tool_call

ALL_GRAMMARS = frozenset({JSONSchema, Regex, Choice, Lark})


class Pet(BaseModel):
    name: str
    age: int = 7


@dataclass
class Home:
    pets: list[Pet]
    owner: str | None = None


async def call_async(model: ScriptedBackend, *args: Any, **options: Any) -> ChatMessage:
    return await model.agenerate(*args, **options)


async def stream_async(model: ScriptedBackend, *args: Any, **options: Any) -> ChatMessage:
    async with model.agenerate_stream(*args, **options) as stream:
        async for _ in stream:
            pass
    return stream.message


BOTH_ASYNC = pytest.mark.parametrize("call", [call_async, stream_async])
BOTH_SYNC = pytest.mark.parametrize("streams", [False, True])


def call_sync(streams: bool, model: ScriptedBackend, *args: Any, **options: Any) -> ChatMessage:
    if not streams:
        return model.generate(*args, **options)
    with model.generate_stream(*args, **options) as stream:
        list(stream)
    return stream.message


# --- strict -----------------------------------------------------------------------------------------------------------


def test_strict_accepts_an_enforced_schema() -> None:
    model = ScriptedBackend('{"age": 3}', capabilities={"grammars": ALL_GRAMMARS})
    assert model.generate("?", grammar=SCHEMA, strict=True).enforcement == "enforced"
    (request,) = model.requests
    assert "strict" not in request.parameters


@pytest.mark.parametrize("capabilities", [{"tools": True}, {}], ids=["tools", "nothing"])
def test_strict_of_a_call_takes_precedence_over_the_constructor(capabilities: dict[str, Any]) -> None:
    response: Any = tool_call("answer", '{"age": 3}') if capabilities else '{"age": 3}'
    model = ScriptedBackend(response, strict=True, capabilities=capabilities)
    with pytest.raises(UnsupportedFeature, match="strict=True"):
        model.generate("?", grammar=SCHEMA)
    assert model.requests == []
    assert model.generate("?", grammar=SCHEMA, strict=False).enforcement in ("forced_tool", "validated")


def test_strict_without_an_output_type_has_no_effect() -> None:
    assert ScriptedBackend("hi", strict=True).generate("?").text == "hi"
    with pytest.raises(InvalidRequest, match="strict='yes'"):
        ScriptedBackend("hi").generate("?", strict="yes")  # type: ignore[call-overload]


# --- the schema subset of a service -----------------------------------------------------------------------------------

STRICT_SERVICE = {"grammars": {JSONSchema}, "schema_rules": OPENAI}


@BOTH_SYNC
def test_schema_is_sent_in_the_subset_and_output_is_validated_against_the_original(streams: bool) -> None:
    model = ScriptedBackend('{"pets": [{"name": "Rex", "age": null}], "owner": null}', capabilities=STRICT_SERVICE)
    message = call_sync(streams, model, "?", grammar=Home)
    assert message.parsed == Home([Pet(name="Rex", age=7)], None)
    assert (message.enforcement, message.warnings) == ("enforced", [])
    sent = model.requests[0].grammar
    assert isinstance(sent, JSONSchema)
    assert sent.schema["$defs"]["Pet"]["required"] == ["name", "age"]


@pytest.mark.parametrize(
    ("output", "problem"),
    [('{"name": "much too long", "age": null}', "too long"), ('{"name": null, "age": 3}', "name"), ("{", "Expecting")],
    ids=["too long", "null", "not JSON"],
)
def test_constraints_that_the_subset_lacks_are_validated(output: str, problem: str) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 4}, "age": {"type": "integer"}},
              "required": ["name"]}  # fmt: skip
    model = ScriptedBackend(output, capabilities=STRICT_SERVICE)
    with pytest.raises(InvalidOutput, match=problem) as raised:
        model.generate("?", grammar=schema)
    assert raised.value.text == output
    valid = ScriptedBackend('{"name": "Ann", "age": null}', capabilities=STRICT_SERVICE).generate("?", grammar=schema)
    assert valid.parsed == {"name": "Ann"}
    assert [str(warning) for warning in valid.warnings] == ["The schema's maxLength is checked, not enforced."]


def test_schema_outside_the_subset_becomes_a_forced_tool() -> None:
    labels = {"type": "object", "additionalProperties": {"type": "string"}}
    model = ScriptedBackend(tool_call("answer", '{"a": "b"}'), capabilities={**STRICT_SERVICE, "tools": True})
    message = model.generate("?", grammar=labels)
    assert (message.parsed, message.enforcement) == ({"a": "b"}, "forced_tool")


def test_forced_call_of_prompted_tools_is_not_enforced_by_a_subset() -> None:
    model = ScriptedBackend('{"name": "time", "arguments": {}}', capabilities=STRICT_SERVICE)
    assert model.generate("?", tools=[TIME], tool_choice="required").tool_calls
    assert model.requests[0].grammar is None


# --- an output type with tools ----------------------------------------------------------------------------------------

TOOLS_OR_GRAMMAR = {"tools": True, "grammars": ALL_GRAMMARS, "grammar_with_tools": False}


@BOTH_ASYNC
async def test_grammar_with_tools_sends_one_request_if_a_tool_is_called(call: Callable[..., Any]) -> None:
    model = ScriptedBackend(["Let me see.", *tool_call("time", "{}")], capabilities=TOOLS_OR_GRAMMAR)
    message = await call(model, "?", tools=[TIME], grammar=DATE)
    assert message.tool_calls[0].function.name == "time"
    assert (message.text, message.finish_reason, message.parsed) == ("Let me see.", "tool_calls", None)
    (request,) = model.requests
    assert (request.grammar, [tool.name for tool in request.tools]) == (None, ["time"])
    assert message.warnings == []


@BOTH_ASYNC
async def test_grammar_with_tools_sends_a_second_request_if_no_tool_is_called(call: Callable[..., Any]) -> None:
    model = ScriptedBackend("It is the last of January.", "2026-01-31", capabilities=TOOLS_OR_GRAMMAR)
    message = await call(model, "?", tools=[TIME], grammar=DATE)
    assert (message.text, message.parsed, message.enforcement) == ("2026-01-31", "2026-01-31", "enforced")
    first, second = model.requests
    assert (first.grammar, second.grammar, second.tools) == (None, DATE, ())
    assert second.messages == first.messages
    assert message.token_usage == TokenUsage(20, 10, 2)
    assert any("Two requests were sent" in str(warning) for warning in message.warnings)


@BOTH_SYNC
def test_grammar_with_prompted_tools_sends_two_requests(streams: bool) -> None:
    capabilities = {"grammars": ALL_GRAMMARS}
    call = '<tool_call>{"name": "time", "arguments": {}}</tool_call>'
    assert call_sync(
        streams, ScriptedBackend(call, capabilities=capabilities), "?", tools=[TIME], grammar=DATE
    ).tool_calls
    model = ScriptedBackend("Soon.", "2026-01-31", capabilities=capabilities)
    message = call_sync(streams, model, "?", tools=[TIME], grammar=DATE, strict=True)
    assert (message.text, message.enforcement) == ("2026-01-31", "enforced")
    assert "time" in model.requests[0].messages[0].text and len(model.requests[1].messages) == 1
    assert any("put into the prompt" in str(warning) for warning in message.warnings)


def test_grammar_with_tools_sends_one_request_if_the_backend_accepts_both() -> None:
    model = ScriptedBackend("2026-01-31", capabilities={**TOOLS_OR_GRAMMAR, "grammar_with_tools": True})
    message = model.generate("?", tools=[TIME], grammar=DATE)
    assert (message.parsed, message.enforcement, len(model.requests)) == ("2026-01-31", "enforced", 1)


def test_grammar_with_tools_sends_one_request_if_the_output_is_only_validated() -> None:
    model = ScriptedBackend("Soon.", "2026-01-31", capabilities={"tools": True})
    message = model.generate("?", tools=[TIME], grammar=DATE)
    assert (message.parsed, message.enforcement) == ("2026-01-31", "validated")
    assert all(request.tools for request in model.requests)
    assert "Call a tool, or answer with" in model.requests[0].messages[-1].text


def test_invalid_call_in_the_first_request_is_an_error() -> None:
    with pytest.raises(InvalidToolCall) as raised:
        ScriptedBackend(tool_call("time", "{"), capabilities=TOOLS_OR_GRAMMAR).generate("?", tools=[TIME], grammar=DATE)
    assert raised.value.text == "{"
    assert not isinstance(raised.value, StreamInterrupted)


def test_calls_of_the_first_request_stream_and_its_draft_does_not() -> None:
    calls = tool_call("time", "{}")
    seen: list[Delta] = []
    with ScriptedBackend(
        ["Hm. ", calls[0], Delta(content="!"), calls[1]], capabilities=TOOLS_OR_GRAMMAR
    ).generate_stream("?", tools=[TIME], grammar=DATE) as stream:
        for delta in stream:
            seen.append(delta)
            if delta.tool_calls:
                break
    assert [bool(delta.tool_calls) for delta in seen] == [False, True]
    model = ScriptedBackend(["A ", "draft"], ["2026-", "01-31"], capabilities=TOOLS_OR_GRAMMAR)
    assert [d.content for d in model.generate_stream("?", tools=[TIME], grammar=DATE)] == ["2026-", "01-31", None]


def test_schema_that_needs_a_forced_tool_is_sent_without_the_tools() -> None:
    model = ScriptedBackend("Hm.", tool_call("answer", '{"age": 3}'), capabilities={"tools": True})
    message = model.generate("?", tools=[TIME], grammar=SCHEMA)
    assert (message.parsed, message.enforcement) == ({"age": 3}, "forced_tool")
    assert [[tool.name for tool in request.tools] for request in model.requests] == [["time"], ["answer"]]


# --- truncated output -------------------------------------------------------------------------------------------------

LONG = [Delta(finish_reason="length", token_usage=TokenUsage(1, 2))]


DAY = Regex(r"\d{4}(-\d\d-\d\d)?")


@BOTH_SYNC
@pytest.mark.parametrize(
    ("grammar", "output", "stop"),
    [
        (int, "12534", "5"),
        (Choice("New York", "New"), "New York", " "),
        (DAY, "2024-05-06", "-"),
        (Lark('start: "a" "b" "c"'), "abc", "b"),
    ],
    ids=["int", "Choice", "Regex", "Lark"],
)
def test_output_that_a_stop_sequence_truncates_is_invalid_if_it_could_continue(
    grammar: Any, output: str, stop: str, streams: bool
) -> None:
    model = ScriptedBackend(output, capabilities={"grammars": ALL_GRAMMARS})
    with pytest.raises(InvalidOutput, match="truncated by the stop sequence") as raised:
        call_sync(streams, model, "?", grammar=grammar, stop_sequences=[stop])
    assert raised.value.text == output.partition(stop)[0]


@pytest.mark.parametrize(
    ("grammar", "output", "parsed"),
    [(int, "12", 12), (Choice("New York", "New"), "New", "New"), (DAY, "2024", "2024"), (int, "-3", -3)],
    ids=["int", "Choice", "Regex", "negative int"],
)
def test_stop_sequence_outside_the_grammar_ends_the_output(grammar: Any, output: str, parsed: Any) -> None:
    """Models whose output is not enforced end it in this way."""
    message = ScriptedBackend(output + "\nObservation: fine").generate(
        "?", grammar=grammar, stop_sequences=["\nObserv"]
    )
    assert (message.parsed, message.stop_sequence, message.enforcement) == (parsed, "\nObserv", "validated")


def test_stop_sequence_at_the_end_of_the_grammar_ends_the_output() -> None:
    """Agents end the model's code in this way, and need the code."""
    step = Lark('start: "<code>" /[a-z]+/ "</code>"')
    model = ScriptedBackend("<code>say</code>", capabilities={"grammars": ALL_GRAMMARS})
    assert model.generate("?", grammar=step, stop_sequences=["</code>"]).parsed == "<code>say"


@BOTH_SYNC
@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        (SCHEMA, '{"age": 3'),
        (Person, '{"age": 3'),
        (DATE, "2026-01"),
        (Choice("pos", "positive"), "pos"),
        (Lark('start: "a"+'), "aa"),
        ({"type": "integer"}, "12"),
    ],
    ids=["schema", "pydantic model", "Regex", "Choice", "Lark", "integer"],
)
def test_output_that_max_tokens_truncates_is_invalid_if_it_could_continue(
    grammar: Any, text: str, streams: bool
) -> None:
    model = ScriptedBackend([text, *LONG], capabilities={"grammars": ALL_GRAMMARS})
    with pytest.raises(InvalidOutput, match="truncated by max_tokens") as raised:
        call_sync(streams, model, "?", grammar=grammar)
    assert raised.value.text == text
    assert raised.value.partial is not None and raised.value.partial.finish_reason == "length"
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    ("grammar", "text"),
    [(SCHEMA, '{"age": 3}'), (Choice("yes", "no"), "yes"), (DATE, "2026-01-31")],
    ids=["schema", "Choice", "Regex"],
)
def test_complete_output_is_valid_though_max_tokens_ended_it(grammar: Any, text: str) -> None:
    message = ScriptedBackend([text, *LONG], capabilities={"grammars": ALL_GRAMMARS}).generate("?", grammar=grammar)
    assert (message.text, message.finish_reason) == (text, "length")


# --- streamed output --------------------------------------------------------------------------------------------------


GROWTH = [
    {"pets": [{}]},
    {"pets": [{"name": "Re"}]},
    {"pets": [{"name": "Rex"}]},
    {"pets": [{"name": "Rex"}], "owner": "Al"},
    {"pets": [{"name": "Rex"}], "owner": "Al"},
]
PIECES = ['{"pets": [{"na', 'me": "Re', 'x"}], "ow', 'ner": "Al"}']


async def test_partial_object_grows_while_the_output_streams() -> None:
    model = ScriptedBackend(PIECES, capabilities={"grammars": ALL_GRAMMARS})
    async with model.agenerate_stream("?", grammar=Home) as stream:
        assert stream.partial is None
        assert [stream.partial async for _ in stream] == GROWTH
    assert stream.message.parsed == Home([Pet(name="Rex")], "Al")


def test_partial_object_of_a_sync_stream_shows_only_what_was_read() -> None:
    """All pieces have arrived on the event loop before the second one is read."""
    with ScriptedBackend(PIECES, capabilities={"grammars": ALL_GRAMMARS}).generate_stream("?", grammar=Home) as stream:
        first = next(stream)
        time.sleep(0.1)
        assert (stream.message.content, stream.partial) == (first.content, GROWTH[0])
        assert [stream.partial for _ in stream] == GROWTH[1:]


async def test_partial_object_grows_while_a_forced_tool_streams() -> None:
    model = ScriptedBackend(tool_call("Person", '{"age": 3}'), capabilities={"tools": True})
    async with model.agenerate_stream("?", grammar=Person) as stream:
        async for _ in stream:
            break
        assert stream.partial == {"age": 3}


def test_partial_object_is_none_for_text_that_is_not_json() -> None:
    with ScriptedBackend(["Hello, ", "you"]).generate_stream("?") as stream:
        assert [stream.partial for _ in stream] == [None, None, None]


# --- output types that are not objects --------------------------------------------------------------------------------

MOOD = Choice("good", 'so "so"')
NUMBERS = {"type": "array", "items": {"type": "integer"}}
TREE = {
    "$ref": "#/$defs/T",
    "$defs": {"T": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#/$defs/T"}}]}},
}
EITHER_OBJECT = {"anyOf": [SCHEMA, {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]}]}


@BOTH_SYNC
@pytest.mark.parametrize(
    ("grammar", "object_text", "text", "parsed"),
    [
        (MOOD, '{"answer": "so \\"so\\""}', 'so "so"', 'so "so"'),
        (NUMBERS, '{"answer": [1, 2]}', "[1, 2]", [1, 2]),
        (NUMBERS, ' {\n "answer" :[ ] } ', "[ ]", []),
        (TREE, '{"answer":[1,[2]]}', "[1,[2]]", [1, [2]]),
        (EITHER_OBJECT, '{"answer": {"age": 3}}', '{"age": 3}', {"age": 3}),
        ({"enum": ["a", None]}, '{"answer": null}', "null", None),
    ],
    ids=["Choice", "array", "array with spaces", "recursive schema", "anyOf of objects", "enum with null"],
)
@pytest.mark.parametrize("service", [STRICT_SERVICE, {"tools": True}], ids=["schema", "tool"])
@pytest.mark.parametrize("size", [1, 5, 99])
def test_output_type_that_is_not_an_object_is_wrapped_in_one(
    grammar: Any, object_text: str, text: str, parsed: Any, service: dict[str, Any], size: int, streams: bool
) -> None:
    pieces: list[Any] = [object_text[at : at + size] for at in range(0, len(object_text), size)]
    if service.get("tools"):
        pieces = [tool_call("answer", piece)[0] for piece in pieces] + [Delta(finish_reason="tool_calls")]
    message = call_sync(streams, ScriptedBackend(pieces, capabilities=service), "?", grammar=grammar)
    assert (message.text, message.parsed, message.finish_reason) == (text, parsed, "stop")
    assert message.enforcement == ("forced_tool" if service.get("tools") else "enforced")


@BOTH_SYNC
@pytest.mark.parametrize(
    ("output", "text"),
    [('{"answer": "goo', '"goo'), ('{"ans', '{"ans'), ("Good!", "Good!"), ('{"answer": 3}', "3")],
    ids=["truncated value", "truncated key", "other text", "other type"],
)
def test_output_that_is_not_the_wrapping_object_is_kept_unchanged(output: str, text: str, streams: bool) -> None:
    with pytest.raises(InvalidOutput) as raised:
        call_sync(streams, ScriptedBackend(output, capabilities=STRICT_SERVICE), "?", grammar=MOOD)
    assert raised.value.text == text


async def test_wrapped_output_streams_and_its_partial_object_grows() -> None:
    model = ScriptedBackend(['{"answer": [1', ", 2", "]", "}"], capabilities=STRICT_SERVICE)
    async with model.agenerate_stream("?", grammar=NUMBERS) as stream:
        seen = [(delta.content, stream.partial) async for delta in stream]
    assert [content for content, _ in seen] == ["[1", ", 2", "]", None]
    assert seen[-1][1] == [1, 2]


def test_wrapped_output_type_with_tools_sends_one_request() -> None:
    both = {**STRICT_SERVICE, "tools": True, "grammar_with_tools": True}
    model = ScriptedBackend('{"answer": "good"}', ["Let me see.", *tool_call("time", "{}")], capabilities=both)
    assert model.generate("?", grammar=MOOD, tools=[TIME]).parsed == "good"
    message = model.generate("?", grammar=MOOD, tools=[TIME])
    assert (message.text, message.parsed, len(model.requests)) == ("Let me see.", None, 2) and message.tool_calls


def test_strict_accepts_a_choice_that_a_schema_enforces() -> None:
    model = ScriptedBackend('{"answer": "good"}', capabilities=STRICT_SERVICE)
    assert model.generate("?", grammar=MOOD, strict=True).parsed == "good"
    assert isinstance(model.requests[0].grammar, JSONSchema)


class BackendWithoutEnd(ScriptedBackend):
    """A backend whose streams just end, without finish reason and token usage."""

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        async for delta in super().deltas(request):
            if delta.finish_reason is None:
                yield delta


@BOTH_SYNC
def test_wrapped_output_without_finish_reason_is_complete(streams: bool) -> None:
    model = BackendWithoutEnd('{"answer": "good"}', capabilities=STRICT_SERVICE)
    assert call_sync(streams, model, "?", grammar=MOOD).parsed == "good"


@BOTH_SYNC
def test_text_instead_of_a_forced_tool_without_finish_reason_is_not_lost(streams: bool) -> None:
    model = BackendWithoutEnd("I'd rather not.", capabilities={"tools": True})
    with pytest.raises(InvalidOutput) as raised:
        call_sync(streams, model, "?", grammar=SCHEMA)
    assert raised.value.text == "I'd rather not."
