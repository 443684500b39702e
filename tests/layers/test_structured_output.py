"""Forms that can't be wrong: strictly, beside tools, in a service's subset of schemas, cut off, in a stream."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from modelport.errors import InvalidOutput, InvalidRequest, InvalidToolCall, StreamInterrupted, UnsupportedFeature
from modelport.remote.schema_subsets import OPENAI
from modelport.types.messages import ChatMessage
from modelport.types.output_types import Choice, JSONSchema, Lark, Regex
from modelport.types.usage import TokenUsage
from tests.layers.test_adapt import SCHEMA, TIME, Delta, Person, Scripted, called

ALL = frozenset({JSONSchema, Regex, Choice, Lark})
DATE = Regex(r"\d{4}-\d\d-\d\d")


class Pet(BaseModel):
    name: str
    age: int = 7


@dataclass
class Home:
    pets: list[Pet]
    owner: str | None = None


async def awaited(model: Scripted, *args: Any, **options: Any) -> ChatMessage:
    return await model.agenerate(*args, **options)


async def awaited_stream(model: Scripted, *args: Any, **options: Any) -> ChatMessage:
    async with model.agenerate_stream(*args, **options) as stream:
        async for _ in stream:
            pass
    return stream.message


WAYS = pytest.mark.parametrize("ask", [awaited, awaited_stream])
SYNC_WAYS = pytest.mark.parametrize("streams", [False, True])


def ask_sync(streams: bool, model: Scripted, *args: Any, **options: Any) -> ChatMessage:
    if not streams:
        return model.generate(*args, **options)
    with model.generate_stream(*args, **options) as stream:
        list(stream)
    return stream.message


# --- strict -----------------------------------------------------------------------------------------------------------


def test_strict_takes_what_is_enforced() -> None:
    model = Scripted('{"age": 3}', capabilities={"grammars": ALL})
    assert model.generate("?", grammar=SCHEMA, strict=True).enforcement == "enforced"
    (request,) = model.requests
    assert "strict" not in request.parameters


@pytest.mark.parametrize("way", [{"tools": True}, {}])
def test_strict_of_the_constructor_holds_for_every_call_and_a_call_goes_before_it(way: dict[str, Any]) -> None:
    model = Scripted([*called("answer", '{"age": 3}')] if way else '{"age": 3}', strict=True, capabilities=way)
    with pytest.raises(UnsupportedFeature, match="strict=True"):
        model.generate("?", grammar=SCHEMA)
    assert model.requests == []
    assert model.generate("?", grammar=SCHEMA, strict=False).enforcement in ("forced_tool", "validated")


def test_strict_asks_nothing_of_an_answer_without_form() -> None:
    assert Scripted("hi", strict=True).generate("?").text == "hi"
    with pytest.raises(InvalidRequest, match="strict='yes'"):
        Scripted("hi").generate("?", strict="yes")


# --- a service's subset of schemas ------------------------------------------------------------------------------------

STRICT_SERVICE = {"grammars": {JSONSchema}, "schema_rules": OPENAI}


@SYNC_WAYS
def test_a_schema_is_sent_in_the_subset_and_the_answer_held_against_the_original(streams: bool) -> None:
    model = Scripted('{"pets": [{"name": "Rex", "age": null}], "owner": null}', capabilities=STRICT_SERVICE)
    message = ask_sync(streams, model, "?", grammar=Home)
    assert message.parsed == Home([Pet(name="Rex", age=7)], None)
    assert (message.enforcement, message.warnings) == ("enforced", [])
    sent = model.requests[0].grammar
    assert isinstance(sent, JSONSchema)
    assert sent.schema["$defs"]["Pet"]["required"] == ["name", "age"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [('{"name": "much too long", "age": null}', "too long"), ('{"name": null, "age": 3}', "name"), ("{", "Expecting")],
)
def test_what_the_subset_lets_through_is_found(answer: str, says: str) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 4}, "age": {"type": "integer"}},
              "required": ["name"]}  # fmt: skip
    model = Scripted(answer, capabilities=STRICT_SERVICE)
    with pytest.raises(InvalidOutput, match=says) as raised:
        model.generate("?", grammar=schema)
    assert raised.value.text == answer
    good = Scripted('{"name": "Ann", "age": null}', capabilities=STRICT_SERVICE).generate("?", grammar=schema)
    assert good.parsed == {"name": "Ann"}
    assert good.warnings == ["maxLength of the schema were checked, not enforced"]


def test_a_schema_that_can_not_be_said_there_goes_through_a_tool() -> None:
    labels = {"type": "object", "additionalProperties": {"type": "string"}}
    model = Scripted([*called("answer", '{"a": "b"}')], capabilities={**STRICT_SERVICE, "tools": True})
    message = model.generate("?", grammar=labels)
    assert (message.parsed, message.enforcement) == ({"a": "b"}, "forced_tool")


def test_calls_of_tools_in_the_prompt_are_not_held_to_a_subset() -> None:
    model = Scripted('{"name": "time", "arguments": {}}', capabilities=STRICT_SERVICE)
    assert model.generate("?", tools=[TIME], tool_choice="required").tool_calls
    assert model.requests[0].grammar is None


# --- a form beside tools ----------------------------------------------------------------------------------------------

EITHER = {"tools": True, "grammars": ALL, "grammar_with_tools": False}


@WAYS
async def test_a_call_needs_one_request(ask: Callable[..., Any]) -> None:
    model = Scripted(["Let me see.", *called("time", "{}")], capabilities=EITHER)
    message = await ask(model, "?", tools=[TIME], grammar=DATE)
    assert message.tool_calls[0].function.name == "time"
    assert (message.text, message.finish_reason, message.parsed) == ("Let me see.", "tool_calls", None)
    (request,) = model.requests
    assert (request.grammar, [tool.name for tool in request.tools]) == (None, ["time"])
    assert message.warnings == []


@WAYS
async def test_an_answer_is_asked_for_again_in_its_form(ask: Callable[..., Any]) -> None:
    model = Scripted("It is the last of January.", "2026-01-31", capabilities=EITHER)
    message = await ask(model, "?", tools=[TIME], grammar=DATE)
    assert (message.text, message.parsed, message.enforcement) == ("2026-01-31", "2026-01-31", "enforced")
    first, second = model.requests
    assert (first.grammar, second.grammar, second.tools) == (None, DATE, ())
    assert second.messages == first.messages
    assert message.token_usage == TokenUsage(20, 10, 2)
    assert any("asked for twice" in warning for warning in message.warnings)


@SYNC_WAYS
def test_likewise_with_tools_in_the_prompt(streams: bool) -> None:
    capabilities = {"grammars": ALL}
    call = '<tool_call>{"name": "time", "arguments": {}}</tool_call>'
    assert ask_sync(streams, Scripted(call, capabilities=capabilities), "?", tools=[TIME], grammar=DATE).tool_calls
    model = Scripted("Soon.", "2026-01-31", capabilities=capabilities)
    message = ask_sync(streams, model, "?", tools=[TIME], grammar=DATE, strict=True)
    assert (message.text, message.enforcement) == ("2026-01-31", "enforced")
    assert "time" in model.requests[0].messages[0].text and len(model.requests[1].messages) == 1
    assert any("put into the prompt" in warning for warning in message.warnings)


def test_one_request_is_enough_where_the_backend_takes_both() -> None:
    model = Scripted("2026-01-31", capabilities={**EITHER, "grammar_with_tools": True})
    message = model.generate("?", tools=[TIME], grammar=DATE)
    assert (message.parsed, message.enforcement, len(model.requests)) == ("2026-01-31", "enforced", 1)


def test_a_form_that_is_only_checked_needs_one_request_too() -> None:
    model = Scripted("Soon.", "2026-01-31", capabilities={"tools": True})
    message = model.generate("?", tools=[TIME], grammar=DATE)
    assert (message.parsed, message.enforcement) == ("2026-01-31", "validated")
    assert all(request.tools for request in model.requests)
    assert "Call a tool, or answer with" in model.requests[0].messages[-1].text


def test_a_broken_call_is_an_error_in_the_first_request() -> None:
    with pytest.raises(InvalidToolCall) as raised:
        Scripted([*called("time", "{")], capabilities=EITHER).generate("?", tools=[TIME], grammar=DATE)
    assert raised.value.text == "{"
    assert not isinstance(raised.value, StreamInterrupted)


def test_calls_stream_as_they_come_and_a_draft_does_not() -> None:
    calls = called("time", "{}")
    seen: list[Delta] = []
    with Scripted(["Hm. ", calls[0], Delta(content="!"), calls[1]], capabilities=EITHER).generate_stream(
        "?", tools=[TIME], grammar=DATE
    ) as stream:
        for delta in stream:
            seen.append(delta)
            if delta.tool_calls:
                break
    assert [bool(delta.tool_calls) for delta in seen] == [False, True]
    model = Scripted(["A ", "draft"], ["2026-", "01-31"], capabilities=EITHER)
    assert [d.content for d in model.generate_stream("?", tools=[TIME], grammar=DATE)] == ["2026-", "01-31", None]


def test_a_schema_that_needs_a_tool_itself_is_asked_for_apart_from_the_tools() -> None:
    model = Scripted("Hm.", called("answer", '{"age": 3}'), capabilities={"tools": True})
    message = model.generate("?", tools=[TIME], grammar=SCHEMA)
    assert (message.parsed, message.enforcement) == ({"age": 3}, "forced_tool")
    assert [[tool.name for tool in request.tools] for request in model.requests] == [["time"], ["answer"]]


# --- cut off ----------------------------------------------------------------------------------------------------------

LONG = [Delta(finish_reason="length", token_usage=TokenUsage(1, 2))]


DAY = Regex(r"\d{4}(-\d\d-\d\d)?")


@SYNC_WAYS
@pytest.mark.parametrize(
    ("grammar", "answer", "stop"),
    [
        (int, "12534", "5"),
        (Choice("New York", "New"), "New York", " "),
        (DAY, "2024-05-06", "-"),
        (Lark('start: "a" "b" "c"'), "abc", "b"),
    ],
    ids=str,
)
def test_half_an_answer_that_a_stop_sequence_cuts_is_none(grammar: Any, answer: str, stop: str, streams: bool) -> None:
    model = Scripted(answer, capabilities={"grammars": ALL})
    with pytest.raises(InvalidOutput, match="cut off by the stop sequence") as raised:
        ask_sync(streams, model, "?", grammar=grammar, stop_sequences=[stop])
    assert raised.value.text == answer.partition(stop)[0]


@pytest.mark.parametrize(
    ("grammar", "answer", "parsed"),
    [(int, "12", 12), (Choice("New York", "New"), "New", "New"), (DAY, "2024", "2024"), (int, "-3", -3)],
    ids=str,
)
def test_a_stop_sequence_that_the_form_has_no_place_for_ends_it(grammar: Any, answer: str, parsed: Any) -> None:
    """So models say that they have ended whom nothing holds to the form."""
    message = Scripted(answer + "\nObservation: fine").generate("?", grammar=grammar, stop_sequences=["\nObserv"])
    assert (message.parsed, message.stop_sequence, message.enforcement) == (parsed, "\nObserv", "validated")


def test_a_stop_sequence_with_which_a_grammar_ends_is_its_end() -> None:
    """So agents have the model end its code, and want the code."""
    step = Lark('start: "<code>" /[a-z]+/ "</code>"')
    model = Scripted("<code>say</code>", capabilities={"grammars": ALL})
    assert model.generate("?", grammar=step, stop_sequences=["</code>"]).parsed == "<code>say"


@SYNC_WAYS
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
    ids=str,
)
def test_half_a_document_is_no_answer(grammar: Any, text: str, streams: bool) -> None:
    model = Scripted([text, *LONG], capabilities={"grammars": ALL})
    with pytest.raises(InvalidOutput, match="cut off by max_tokens") as raised:
        ask_sync(streams, model, "?", grammar=grammar)
    assert raised.value.text == text
    assert raised.value.partial is not None and raised.value.partial.finish_reason == "length"
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    ("grammar", "text"), [(SCHEMA, '{"age": 3}'), (Choice("yes", "no"), "yes"), (DATE, "2026-01-31")], ids=str
)
def test_a_whole_document_is_one_though_it_fills_the_budget(grammar: Any, text: str) -> None:
    message = Scripted([text, *LONG], capabilities={"grammars": ALL}).generate("?", grammar=grammar)
    assert (message.text, message.finish_reason) == (text, "length")


# --- while it streams -------------------------------------------------------------------------------------------------


GROWTH = [
    {"pets": [{}]},
    {"pets": [{"name": "Re"}]},
    {"pets": [{"name": "Rex"}]},
    {"pets": [{"name": "Rex"}], "owner": "Al"},
    {"pets": [{"name": "Rex"}], "owner": "Al"},
]
PIECES = ['{"pets": [{"na', 'me": "Re', 'x"}], "ow', 'ner": "Al"}']


async def test_a_streams_partial_object_grows() -> None:
    model = Scripted(PIECES, capabilities={"grammars": ALL})
    async with model.agenerate_stream("?", grammar=Home) as stream:
        assert stream.partial is None
        assert [stream.partial async for _ in stream] == GROWTH
    assert stream.message.parsed == Home([Pet(name="Rex")], "Al")


def test_in_synchronous_code_too_it_shows_what_has_been_read() -> None:
    """The loop is ahead by then: all has come before the second piece is read."""
    with Scripted(PIECES, capabilities={"grammars": ALL}).generate_stream("?", grammar=Home) as stream:
        first = next(stream)
        time.sleep(0.1)
        assert (stream.message.content, stream.partial) == (first.content, GROWTH[0])
        assert [stream.partial for _ in stream] == GROWTH[1:]


async def test_likewise_through_a_tool() -> None:
    model = Scripted(called("Person", '{"age": 3}'), capabilities={"tools": True})
    async with model.agenerate_stream("?", grammar=Person) as stream:
        async for _ in stream:
            break
        assert stream.partial == {"age": 3}


def test_text_that_is_no_json_has_no_partial_object() -> None:
    with Scripted(["Hello, ", "you"]).generate_stream("?") as stream:
        assert [stream.partial for _ in stream] == [None, None, None]


# --- forms that are no object, where only objects are taken -----------------------------------------------------------

MOOD = Choice("good", 'so "so"')
NUMBERS = {"type": "array", "items": {"type": "integer"}}
TREE = {
    "$ref": "#/$defs/T",
    "$defs": {"T": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#/$defs/T"}}]}},
}
EITHER_OBJECT = {"anyOf": [SCHEMA, {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]}]}


@SYNC_WAYS
@pytest.mark.parametrize(
    ("form", "written", "text", "parsed"),
    [
        (MOOD, '{"answer": "so \\"so\\""}', 'so "so"', 'so "so"'),
        (NUMBERS, '{"answer": [1, 2]}', "[1, 2]", [1, 2]),
        (NUMBERS, ' {\n "answer" :[ ] } ', "[ ]", []),
        (TREE, '{"answer":[1,[2]]}', "[1,[2]]", [1, [2]]),
        (EITHER_OBJECT, '{"answer": {"age": 3}}', '{"age": 3}', {"age": 3}),
        ({"enum": ["a", None]}, '{"answer": null}', "null", None),
    ],
    ids=str,
)
@pytest.mark.parametrize("service", [STRICT_SERVICE, {"tools": True}], ids=["schema", "tool"])
@pytest.mark.parametrize("size", [1, 5, 99])
def test_it_comes_as_the_property_of_one(
    form: Any, written: str, text: str, parsed: Any, service: dict[str, Any], size: int, streams: bool
) -> None:
    pieces: list[Any] = [written[at : at + size] for at in range(0, len(written), size)]
    if service.get("tools"):
        pieces = [called("answer", piece)[0] for piece in pieces] + [Delta(finish_reason="tool_calls")]
    message = ask_sync(streams, Scripted(pieces, capabilities=service), "?", grammar=form)
    assert (message.text, message.parsed, message.finish_reason) == (text, parsed, "stop")
    assert message.enforcement == ("forced_tool" if service.get("tools") else "enforced")


@SYNC_WAYS
@pytest.mark.parametrize(
    ("written", "left"), [('{"answer": "goo', '"goo'), ('{"ans', '{"ans'), ("Good!", "Good!"), ('{"answer": 3}', "3")]
)
def test_what_is_no_such_object_is_kept_as_it_came(written: str, left: str, streams: bool) -> None:
    with pytest.raises(InvalidOutput) as raised:
        ask_sync(streams, Scripted(written, capabilities=STRICT_SERVICE), "?", grammar=MOOD)
    assert raised.value.text == left


async def test_it_streams_as_it_comes_and_its_partial_object_grows() -> None:
    model = Scripted(['{"answer": [1', ", 2", "]", "}"], capabilities=STRICT_SERVICE)
    async with model.agenerate_stream("?", grammar=NUMBERS) as stream:
        seen = [(delta.content, stream.partial) async for delta in stream]
    assert [content for content, _ in seen] == ["[1", ", 2", "]", None]
    assert seen[-1][1] == [1, 2]


def test_tools_may_be_called_instead_in_the_same_request() -> None:
    both = {**STRICT_SERVICE, "tools": True, "grammar_with_tools": True}
    model = Scripted('{"answer": "good"}', ["Let me see.", *called("time", "{}")], capabilities=both)
    assert model.generate("?", grammar=MOOD, tools=[TIME]).parsed == "good"
    message = model.generate("?", grammar=MOOD, tools=[TIME])
    assert (message.text, message.parsed, len(model.requests)) == ("Let me see.", None, 2) and message.tool_calls


def test_a_choice_is_enforced_strictly_by_a_schema() -> None:
    model = Scripted('{"answer": "good"}', capabilities=STRICT_SERVICE)
    assert model.generate("?", grammar=MOOD, strict=True).parsed == "good"
    assert isinstance(model.requests[0].grammar, JSONSchema)
