"""The form of an answer, and tool calls: secured by the best way that a backend offers, and said."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from modelport.errors import ConnectionFailed, InvalidOutput, InvalidRequest, InvalidToolCall, StreamInterrupted
from modelport.layers.retry import RetryPolicy
from modelport.model import Model
from modelport.types.deltas import ChatMessageStreamDelta, ChatMessageToolCallStreamDelta, accumulate
from modelport.types.messages import ChatMessage, ChatMessageToolCallFunction
from modelport.types.output_types import Choice, JSONSchema, Lark, Regex
from modelport.types.request import Request
from modelport.types.tools import NamedToolChoice, Tool
from modelport.types.usage import TokenUsage

Delta = ChatMessageStreamDelta
DATE = Regex(r"\d{4}-\d\d-\d\d")
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
WEATHER = Tool("weather", "", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
TIME = Tool("time", "", {"type": "object", "properties": {}})
ANY_TOOLS = {"tools": True}


class Person(BaseModel):
    age: int


@dataclass
class Animal:
    age: int


def called(name: str, arguments: str, identifier: str = "c1") -> list[Any]:
    function = ChatMessageToolCallFunction(arguments, name)
    call = ChatMessageToolCallStreamDelta(0, identifier, "function", function)
    return [Delta(tool_calls=[call]), Delta(finish_reason="tool_calls", token_usage=TokenUsage(10, 5))]


class Scripted(Model):
    """Plays one list of texts, deltas and errors per request, and keeps the requests."""

    def __init__(self, *answers: list[Any] | str, **settings: Any) -> None:
        super().__init__("scripted", retry=RetryPolicy(base=0), **settings)
        self.answers = [[answer] if isinstance(answer, str) else answer for answer in answers]
        self.requests: list[Request] = []

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        finished = False
        for item in self.answers[len(self.requests) - 1]:
            if isinstance(item, Exception):
                raise item
            delta = Delta(content=item) if isinstance(item, str) else item
            finished = finished or delta.finish_reason is not None
            yield delta
        if not finished:
            yield Delta(finish_reason="stop", token_usage=TokenUsage(10, 5, 1))


# --- grammars ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grammar", "answer", "parsed"),
    [
        (SCHEMA, '{"age": 3}', {"age": 3}),
        (Person, '{"age": 3}', Person(age=3)),
        (Animal, '{"age": 3}', Animal(3)),
        (DATE, "2026-01-31", "2026-01-31"),
        (Choice("yes", "no"), "no", "no"),
        (Lark('start: "a"+'), "aa", "aa"),
    ],
)
def test_a_backend_that_knows_the_grammar_gets_it(grammar: Any, answer: str, parsed: Any) -> None:
    model = Scripted(answer, capabilities={"grammars": {JSONSchema, Regex, Choice, Lark}})
    message = model.generate("?", grammar=grammar)
    assert (message.parsed, message.enforcement, message.content) == (parsed, "enforced", answer)
    assert type(model.requests[0].grammar) is (JSONSchema if isinstance(grammar, dict | type) else type(grammar))
    assert len(model.requests[0].messages) == 1


def test_an_open_schema_goes_another_way_where_a_backend_takes_only_closed_ones() -> None:
    can = {**ANY_TOOLS, "grammars": {JSONSchema}, "schema_rules": {}}
    closed = Scripted('{"age": 3}', capabilities=can)
    assert closed.generate("?", grammar=SCHEMA).enforcement == "enforced"
    anything = Scripted(called("json_object", '{"any": 3}'), capabilities=can)
    message = anything.generate("?", response_format={"type": "json_object"})
    assert (message.enforcement, message.parsed) == ("forced_tool", {"any": 3})


@pytest.mark.parametrize("asked", ["?", "Some JSON, please."])
def test_a_service_that_gives_any_object_is_told_of_json(asked: str) -> None:
    """OpenAI refuses to give one where no message speaks of it."""
    can = {"grammars": {JSONSchema}, "schema_rules": {"any_object": True}}
    model = Scripted('{"any": 3}', capabilities=can)
    message = model.generate(asked, grammar={"type": "object"}, strict=True)
    assert (message.enforcement, message.parsed) == ("enforced", {"any": 3})
    said = [m.text for m in model.requests[0].messages]
    assert said == [asked] if "JSON" in asked else said == [asked, "Answer with a JSON object."]
    assert bool(message.warnings) == ("JSON" not in asked)


def test_an_enforced_answer_is_checked_and_never_asked_for_again() -> None:
    model = Scripted('{"age": "three"}', capabilities={"grammars": {JSONSchema}})
    with pytest.raises(InvalidOutput, match=r"\$\.age") as raised:
        model.generate("?", grammar=SCHEMA)
    assert raised.value.text == '{"age": "three"}'
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    ("choices", "choice"), [({"auto", "named"}, NamedToolChoice("answer")), ({"auto", "required"}, "required")]
)
def test_a_schema_goes_through_a_forced_tool_where_a_backend_has_only_tools(choices: set[str], choice: Any) -> None:
    model = Scripted(called("answer", '{"age": 3}'), capabilities={**ANY_TOOLS, "tool_choices": choices})
    message = model.generate("?", grammar=SCHEMA, stop_sequences=["}"])
    assert (message.parsed, message.enforcement, message.content) == ({"age": 3}, "forced_tool", '{"age": 3}')
    assert (message.tool_calls, message.finish_reason) == (None, "stop")
    (request,) = model.requests
    assert (request.tool_choice, request.tools[0].parameters, request.grammar) == (choice, SCHEMA, None)
    assert request.stop_sequences == ()  # They are for text, and would cut the call's JSON.
    assert message.warnings == ["stop sequences were left out: the answer comes through a tool"]


def test_where_a_forced_tool_is_not_called_what_was_said_is_kept() -> None:
    model = Scripted(
        [Delta(content="I cannot"), Delta(content=" do that."), Delta(finish_reason="stop")], capabilities=ANY_TOOLS
    )
    with pytest.raises(InvalidOutput) as raised:
        model.generate("?", grammar=SCHEMA)
    assert raised.value.text == "I cannot do that."


@pytest.mark.parametrize("indices", [(0, 1, 2), (None, None, None)])
def test_of_several_calls_the_first_of_the_forced_tool_is_the_answer(indices: tuple[int | None, ...]) -> None:
    function = ChatMessageToolCallFunction
    given = zip(indices, ('{"age": "x"}', '{"age": 3}', '{"age": 4}'), ("other", "answer", "answer"), strict=True)
    calls = [ChatMessageToolCallStreamDelta(i, f"c{n}", "function", function(said, n)) for i, said, n in given]
    model = Scripted([Delta(tool_calls=calls), Delta(finish_reason="tool_calls")], capabilities=ANY_TOOLS)
    message = model.generate("?", grammar=SCHEMA)
    assert message.parsed == {"age": 3}
    assert message.warnings == ["the model made 3 calls for its answer: the first was taken"]


def test_a_forced_tools_arguments_stream_as_text() -> None:
    function = ChatMessageToolCallFunction
    pieces = [
        Delta(content="Sure: "),
        Delta(tool_calls=[ChatMessageToolCallStreamDelta(0, "c1", "function", function("", "Person"))]),
        Delta(tool_calls=[ChatMessageToolCallStreamDelta(0, None, None, function('{"age"', ""))]),
        Delta(tool_calls=[ChatMessageToolCallStreamDelta(0, None, None, function(": 3}", ""))]),
        Delta(finish_reason="tool_calls"),
    ]
    with Scripted(pieces, capabilities=ANY_TOOLS).generate_stream("?", grammar=Person) as stream:
        assert "".join(delta.content or "" for delta in stream) == '{"age": 3}'
    assert stream.message.parsed == Person(age=3)


def test_a_schema_is_not_forced_on_a_backend_that_can_only_offer_tools() -> None:
    model = Scripted('{"age": 3}', capabilities={**ANY_TOOLS, "tool_choices": {"auto", "none"}})
    assert model.generate("?", grammar=SCHEMA).enforcement == "validated"
    assert model.requests[0].tools == ()


def test_what_no_backend_enforces_is_asked_for_in_words_and_checked() -> None:
    model = Scripted("2026-01-31")
    message = model.generate("When?", grammar=DATE)
    assert (message.parsed, message.enforcement) == ("2026-01-31", "validated")
    assert model.requests[0].messages[0].content == "When?"
    assert DATE.pattern in model.requests[0].messages[-1].text
    assert model.requests[0].grammar is None


def test_a_wrong_answer_is_sent_back_with_what_is_wrong_with_it() -> None:
    model = Scripted("tomorrow", "2026", "2026-01-31")
    message = model.generate("When?", grammar=DATE)
    assert (message.content, message.parsed) == ("2026-01-31", "2026-01-31")
    first, second, third = ([(str(m.role), m.text) for m in r.messages] for r in model.requests)
    assert second[: len(first)] == first
    assert second[len(first)] == ("assistant", "tomorrow")
    assert second[-1][0] == "user"
    assert "'tomorrow' does not match" in second[-1][1]
    assert third[: len(second)] == second
    assert "'2026' does not match" in third[-1][1]


def test_usage_of_all_the_asks_is_added_up() -> None:
    usage = Scripted("tomorrow", "2026", "2026-01-31").generate("When?", grammar=DATE).token_usage
    assert usage == TokenUsage(30, 15, 3)  # What one ask does not know is unknown of all.


def test_it_is_asked_again_twice_at_most() -> None:
    model = Scripted(*["no"] * 9)
    with pytest.raises(InvalidOutput, match="'no' does not match") as raised:
        model.generate("When?", grammar=DATE)
    assert len(model.requests) == 3
    assert raised.value.text == "no"
    assert raised.value.partial is not None


def test_a_reask_is_retried_and_limited_like_any_call() -> None:
    model = Scripted("no", [ConnectionFailed("reset")], "2026-01-31", max_concurrency=1)
    assert model.generate("When?", grammar=DATE).parsed == "2026-01-31"
    assert len(model.requests) == 3


def test_an_answer_that_was_cut_off_is_not_asked_for_again() -> None:
    model = Scripted(["2026-", Delta(finish_reason="length")], "2026-01-31")
    with pytest.raises(InvalidOutput, match="cut off by max_tokens"):
        model.generate("When?", grammar=DATE)
    assert len(model.requests) == 1


def test_a_stop_sequence_within_the_form_is_named() -> None:
    model = Scripted('{"age": 3}', capabilities={"grammars": {JSONSchema}})
    with pytest.raises(InvalidOutput, match="stop sequence '}'"):
        model.generate("When?", grammar=SCHEMA, stop_sequences=["}"])


def test_a_stream_shows_its_text_and_is_never_asked_for_again() -> None:
    model = Scripted(["tomo", "rrow"], "2026-01-31")
    seen = []
    with pytest.raises(InvalidOutput, match="'tomorrow' does not match"):
        for delta in model.generate_stream("When?", grammar=DATE):
            seen.append(delta.content)
    assert seen == ["tomo", "rrow"]
    assert len(model.requests) == 1


def test_a_stream_that_has_its_form_is_parsed_at_its_end() -> None:
    deltas = list(Scripted(["2026-", "01-31"]).generate_stream("When?", grammar=DATE))
    assert [delta.content for delta in deltas] == ["2026-", "01-31", None]
    assert (deltas[-1].parsed, deltas[-1].enforcement, deltas[-1].token_usage) == (
        "2026-01-31", "validated", TokenUsage(10, 5, 1),
    )  # fmt: skip


def test_pydantics_word_on_a_wrong_answer_is_one_line() -> None:
    model = Scripted('{"age": "x"}', '{"age": "x"}', "{", capabilities={})
    with pytest.raises(InvalidOutput) as raised:
        model.generate("?", grammar=Person)
    assert "\n" not in str(raised.value)
    assert "at $.age: Input should be a valid integer" in model.requests[1].messages[-1].text


def test_a_response_format_of_text_asks_for_nothing() -> None:
    model = Scripted("hello")
    assert model.generate("?", response_format={"type": "text"}).enforcement is None


# --- tools ------------------------------------------------------------------------------------------------------------

ALL = {"auto", "none", "required", "named"}


@pytest.mark.parametrize(
    ("known", "asked", "sent", "tools"),
    [
        (ALL, "auto", "auto", 2),
        (ALL, "required", "required", 2),
        (ALL, "none", "none", 2),
        (ALL, "weather", NamedToolChoice("weather"), 2),
        ({"auto", "none", "required"}, "weather", "required", 1),  # Of one tool alone, any call is the one asked for.
        ({"auto"}, "weather", "auto", 1),
        ({"auto"}, "required", "auto", 2),
        ({"auto"}, "none", "auto", 0),
    ],
)
def test_a_tool_choice_is_put_as_the_backend_knows_it(known: set[str], asked: str, sent: Any, tools: int) -> None:
    answer: Any = "no call" if asked in ("none", "auto") else called("weather", '{"city": "Paris"}')
    model = Scripted(answer, capabilities={"tools": True, "tool_choices": known})
    message = model.generate("?", tools=[WEATHER, TIME], tool_choice=asked)
    assert (model.requests[0].tool_choice, len(model.requests[0].tools)) == (sent, tools)
    weakened = asked in ("required", "weather") and sent == "auto"
    assert any("checked, not enforced" in warning for warning in message.warnings) == weakened


@pytest.mark.parametrize("known", [{"auto"}, ALL])
def test_a_call_that_was_required_and_did_not_come_is_an_error(known: set[str]) -> None:
    model = Scripted("I'd rather not.", capabilities={"tools": True, "tool_choices": known})
    with pytest.raises(InvalidToolCall, match="made none") as raised:
        model.generate("?", tools=[WEATHER], tool_choice="required")
    assert raised.value.text == "I'd rather not."
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("weather", '{"city": "Par', "no valid JSON"),
        ("weather", '{"city": 5}', r"\$\.city"),
        ("weather", '{"city":"x" , "city": 5}', r"\$\.city"),
        ("weather", '"{\\"city\\": \\"x\\"}"', "are a JSON string, and must be an object"),
        ("weather", '"x"', "are a JSON string, and must be an object"),
        ("weather", "x", "no valid JSON"),
        ("weather", "", "'city' is a required property"),
        ("moon", "{}", "no such tool; there are 'weather', 'time'"),
    ],
)
def test_a_broken_call_is_an_error_with_its_raw_arguments(name: str, arguments: str, says: str) -> None:
    model = Scripted(called(name, arguments), capabilities=ANY_TOOLS)
    with pytest.raises(InvalidToolCall, match=says) as raised:
        model.generate("?", tools=[WEATHER, TIME])
    assert raised.value.text == (arguments or "{}")
    assert raised.value.partial is not None
    assert not isinstance(raised.value, StreamInterrupted)


def test_a_call_that_max_tokens_cut_says_so() -> None:
    answer = [called("weather", '{"city": "Par')[0], Delta(finish_reason="length")]
    with pytest.raises(InvalidToolCall, match="no valid JSON; the output was truncated by max_tokens"):
        Scripted(answer, capabilities=ANY_TOOLS).generate("?", tools=[WEATHER])


def test_a_broken_tool_schema_is_found_before_anything_is_sent() -> None:
    model = Scripted(called("weather", "{}"), capabilities=ANY_TOOLS)
    for broken in ({"type": "objekt"}, {"$ref": "#/$defs/nowhere"}):
        with pytest.raises(InvalidRequest, match=r"tools\[1\] \('f'\): .*(objekt|nowhere)"):
            model.generate("?", tools=[TIME, Tool("f", "", {"type": "object", "properties": {"city": broken}})])
    assert model.requests == []


@pytest.mark.parametrize("streamed", [False, True])
def test_a_schema_that_fails_at_the_call_is_no_interruption(streamed: bool) -> None:
    itself = {"$ref": "#/$defs/a"}
    loop = Tool("f", "", {"type": "object", "properties": {"a": itself}, "$defs": {"a": itself}})
    model = Scripted(called("f", '{"a": "x"}'), capabilities=ANY_TOOLS)
    with pytest.raises(InvalidToolCall, match="schema can't be used") as raised:
        ask(model, streamed, tools=[loop])
    assert raised.value.text == '{"a": "x"}'


def ask(model: Model, streamed: bool, **options: Any) -> ChatMessage:
    if not streamed:
        return model.generate("?", **options)
    with model.generate_stream("?", **options) as stream:
        list(stream)
        return stream.message


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("known", [{"auto"}, ALL])
@pytest.mark.parametrize(
    ("choice", "says"),
    [("none", "tool_choice='none' does not allow a call"), ("time", "tool_choice allows only a call of 'time'")],
)
def test_a_call_that_was_not_asked_for_is_an_error(streamed: bool, known: set[str], choice: str, says: str) -> None:
    model = Scripted(called("weather", '{"city":"Rome"}'), capabilities={"tools": True, "tool_choices": known})
    with pytest.raises(InvalidToolCall, match=says) as raised:
        ask(model, streamed, tools=[WEATHER, TIME], tool_choice=choice)
    assert raised.value.text == '{"city":"Rome"}'
    assert raised.value.partial is not None and raised.value.partial.tool_calls


def piece(index: int | None, arguments: str, name: str = "") -> ChatMessageToolCallStreamDelta:
    return ChatMessageToolCallStreamDelta(index, f"c{index}", "function", ChatMessageToolCallFunction(arguments, name))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        [Delta(tool_calls=[piece(0, "{}", "time"), piece(1, "{}", "time")], finish_reason="tool_calls")],
        [
            Delta(tool_calls=[piece(1, "", "time")]), Delta(tool_calls=[piece(2, "{", "time")]),
            Delta(tool_calls=[piece(1, "{}"), piece(2, "}")], content="so"), Delta(tool_calls=[piece(2, "")]),
        ],
        [Delta(tool_calls=[piece(None, "{}", "time")]), Delta(tool_calls=[piece(None, '{"a": 1}', "time")])],
    ],
)  # fmt: skip
def test_of_several_calls_the_first_is_kept_where_one_was_asked_for(streamed: bool, answer: list[Delta]) -> None:
    model = Scripted(answer, copy.deepcopy(answer), capabilities=ANY_TOOLS)
    message = ask(model, streamed, tools=[TIME], parallel_tool_calls=False)
    (call,) = message.tool_calls or ()
    assert (call.function.name, call.function.arguments) == ("time", {})
    assert [warning for warning in message.warnings if "several tool calls" in warning] == message.warnings != []
    assert len(ask(model, streamed, tools=[TIME]).tool_calls or ()) == 2


def test_one_call_where_one_was_asked_for_is_nothing_to_warn_of() -> None:
    message = ask(Scripted(called("time", "{}"), capabilities=ANY_TOOLS), True, tools=[TIME], parallel_tool_calls=False)
    assert message.tool_calls and not message.warnings


def test_a_finish_reason_of_stop_beside_calls_is_put_right() -> None:
    answer = [called("time", "{}")[0], Delta(finish_reason="stop")]
    assert Scripted(answer, capabilities=ANY_TOOLS).generate("?", tools=[TIME]).finish_reason == "tool_calls"


def test_a_grammar_holds_for_text_where_tools_may_be_called_too() -> None:
    capabilities = {"tools": True, "grammars": {JSONSchema}, "grammar_with_tools": True}
    model = Scripted(called("time", "{}"), '{"age": 3}', capabilities=capabilities)
    assert model.generate("?", tools=[TIME], grammar=SCHEMA).parsed is None
    assert model.generate("?", tools=[TIME], grammar=SCHEMA).parsed == {"age": 3}


def test_tools_that_are_not_to_be_called_do_not_stand_in_a_grammars_way() -> None:
    capabilities = {"tools": True, "grammars": {JSONSchema}, "grammar_with_tools": False}
    model = Scripted('{"age": 3}', capabilities=capabilities)
    assert model.generate("?", tools=[TIME], tool_choice="none", grammar=SCHEMA).parsed == {"age": 3}
    assert model.requests[0].tools == ()


def test_usage_comes_once_and_last_also_with_tools() -> None:
    deltas = list(Scripted(called("time", "{}"), capabilities=ANY_TOOLS).generate_stream("?", tools=[TIME]))
    assert [delta.token_usage for delta in deltas] == [None, TokenUsage(10, 5)]
    assert accumulate(deltas).finish_reason == "tool_calls"


def test_what_the_caller_gave_stays_as_it_was() -> None:
    messages = [ChatMessage("system", "s"), {"role": "user", "content": [{"type": "text", "text": "?"}]}]
    schema = copy.deepcopy(SCHEMA)
    before = copy.deepcopy(messages)
    capabilities = {"system_role": False, "consecutive_roles": False}
    Scripted("no", '{"age": 3}', capabilities=capabilities).generate(messages, grammar=schema)
    Scripted("no call", capabilities=capabilities).generate(messages, tools=[WEATHER])
    assert (messages, schema) == (before, SCHEMA)
