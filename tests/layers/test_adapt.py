"""The adapt layer: output types and tool calls, carried out in the best way that a backend offers."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest

from modelport.errors import ConnectionFailed, InvalidOutput, InvalidRequest, InvalidToolCall, StreamInterrupted
from modelport.model import Model
from modelport.types.deltas import ChatMessageToolCallStreamDelta, accumulate
from modelport.types.messages import ChatMessage, ChatMessageToolCallFunction
from modelport.types.output_types import Choice, JSONSchema, Lark, Regex
from modelport.types.tools import NamedToolChoice, Tool
from modelport.types.usage import TokenUsage

from .adapt_backend import DATE, SCHEMA, TIME, WEATHER, Delta, Person, ScriptedBackend, tool_call

TOOLS = {"tools": True}


@dataclass
class Animal:
    age: int


# --- output types -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grammar", "output", "parsed"),
    [
        (SCHEMA, '{"age": 3}', {"age": 3}),
        (Person, '{"age": 3}', Person(age=3)),
        (Animal, '{"age": 3}', Animal(3)),
        (DATE, "2026-01-31", "2026-01-31"),
        (Choice("yes", "no"), "no", "no"),
        (Lark('start: "a"+'), "aa", "aa"),
    ],
    ids=["schema", "pydantic model", "dataclass", "Regex", "Choice", "Lark"],
)
def test_supported_grammar_is_sent_to_the_backend(grammar: Any, output: str, parsed: Any) -> None:
    model = ScriptedBackend(output, capabilities={"grammars": {JSONSchema, Regex, Choice, Lark}})
    message = model.generate("?", grammar=grammar)
    assert (message.parsed, message.enforcement, message.content) == (parsed, "enforced", output)
    assert type(model.requests[0].grammar) is (JSONSchema if isinstance(grammar, dict | type) else type(grammar))
    assert len(model.requests[0].messages) == 1


def test_open_schema_falls_back_to_a_forced_tool_if_only_closed_schemas_are_enforced() -> None:
    capabilities = {**TOOLS, "grammars": {JSONSchema}, "schema_rules": {}}
    model = ScriptedBackend('{"age": 3}', capabilities=capabilities)
    assert model.generate("?", grammar=SCHEMA).enforcement == "enforced"
    model = ScriptedBackend(tool_call("json_object", '{"any": 3}'), capabilities=capabilities)
    message = model.generate("?", response_format={"type": "json_object"})
    assert (message.enforcement, message.parsed) == ("forced_tool", {"any": 3})


@pytest.mark.parametrize("prompt", ["?", "Some JSON, please."])
def test_json_hint_is_added_if_the_messages_do_not_mention_json(prompt: str) -> None:
    """Services with a mode for any JSON object require that a message mentions JSON."""
    capabilities = {"grammars": {JSONSchema}, "schema_rules": {"any_object": True}}
    model = ScriptedBackend('{"any": 3}', capabilities=capabilities)
    message = model.generate(prompt, grammar={"type": "object"}, strict=True)
    assert (message.enforcement, message.parsed) == ("enforced", {"any": 3})
    texts = [m.text for m in model.requests[0].messages]
    assert texts == [prompt] if "JSON" in prompt else texts == [prompt, "Answer with a JSON object."]
    assert bool(message.warnings) == ("JSON" not in prompt)


def test_enforced_output_is_validated_without_feedback_retries() -> None:
    model = ScriptedBackend('{"age": "three"}', capabilities={"grammars": {JSONSchema}})
    with pytest.raises(InvalidOutput, match=r"\$\.age") as raised:
        model.generate("?", grammar=SCHEMA)
    assert raised.value.text == '{"age": "three"}'
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    ("choices", "choice"),
    [({"auto", "named"}, NamedToolChoice("answer")), ({"auto", "required"}, "required")],
    ids=["named", "required"],
)
def test_schema_becomes_a_forced_tool_if_the_backend_has_only_tools(choices: set[str], choice: Any) -> None:
    model = ScriptedBackend(tool_call("answer", '{"age": 3}'), capabilities={**TOOLS, "tool_choices": choices})
    message = model.generate("?", grammar=SCHEMA, stop_sequences=["}"])
    assert (message.parsed, message.enforcement, message.content) == ({"age": 3}, "forced_tool", '{"age": 3}')
    assert (message.tool_calls, message.finish_reason) == (None, "stop")
    (request,) = model.requests
    assert (request.tool_choice, request.tools[0].parameters, request.grammar) == (choice, SCHEMA, None)
    assert request.stop_sequences == ()  # They are meant for text, and would truncate the call's JSON.
    assert [(one.type, one.feature) for one in message.warnings] == [("left_out", "stop_sequences")]


def test_text_is_kept_if_the_forced_tool_is_not_called() -> None:
    model = ScriptedBackend(
        [Delta(content="I cannot"), Delta(content=" do that."), Delta(finish_reason="stop")], capabilities=TOOLS
    )
    with pytest.raises(InvalidOutput) as raised:
        model.generate("?", grammar=SCHEMA)
    assert raised.value.text == "I cannot do that."


@pytest.mark.parametrize("indices", [(0, 1, 2), (None, None, None)], ids=["with indices", "without indices"])
def test_first_call_of_the_forced_tool_is_the_output(indices: tuple[int | None, ...]) -> None:
    function = ChatMessageToolCallFunction
    parts = zip(indices, ('{"age": "x"}', '{"age": 3}', '{"age": 4}'), ("other", "answer", "answer"), strict=True)
    calls = [
        ChatMessageToolCallStreamDelta(index, f"c{name}", "function", function(arguments, name))
        for index, arguments, name in parts
    ]
    model = ScriptedBackend([Delta(tool_calls=calls), Delta(finish_reason="tool_calls")], capabilities=TOOLS)
    message = model.generate("?", grammar=SCHEMA)
    assert message.parsed == {"age": 3}
    assert [str(one) for one in message.warnings] == ["The model made 3 calls for its output, and the first was used."]


def test_arguments_of_a_forced_tool_stream_as_text() -> None:
    function = ChatMessageToolCallFunction
    pieces = [
        Delta(content="Sure: "),
        Delta(tool_calls=[ChatMessageToolCallStreamDelta(0, "c1", "function", function("", "Person"))]),
        Delta(tool_calls=[ChatMessageToolCallStreamDelta(0, None, None, function('{"age"', ""))]),
        Delta(tool_calls=[ChatMessageToolCallStreamDelta(0, None, None, function(": 3}", ""))]),
        Delta(finish_reason="tool_calls"),
    ]
    with ScriptedBackend(pieces, capabilities=TOOLS).generate_stream("?", grammar=Person) as stream:
        assert "".join(delta.content or "" for delta in stream) == '{"age": 3}'
    assert stream.message.parsed == Person(age=3)


def test_schema_is_validated_if_the_backend_cannot_force_a_tool() -> None:
    model = ScriptedBackend('{"age": 3}', capabilities={**TOOLS, "tool_choices": {"auto", "none"}})
    assert model.generate("?", grammar=SCHEMA).enforcement == "validated"
    assert model.requests[0].tools == ()


def test_grammar_without_enforcement_is_described_and_validated() -> None:
    model = ScriptedBackend("2026-01-31")
    message = model.generate("When?", grammar=DATE)
    assert (message.parsed, message.enforcement) == ("2026-01-31", "validated")
    assert model.requests[0].messages[0].content == "When?"
    assert DATE.pattern in model.requests[0].messages[-1].text
    assert model.requests[0].grammar is None


def test_invalid_output_is_sent_back_with_its_error() -> None:
    model = ScriptedBackend("tomorrow", "2026", "2026-01-31")
    message = model.generate("When?", grammar=DATE)
    assert (message.content, message.parsed) == ("2026-01-31", "2026-01-31")
    first, second, third = ([(str(m.role), m.text) for m in r.messages] for r in model.requests)
    assert second[: len(first)] == first
    assert second[len(first)] == ("assistant", "tomorrow")
    assert second[-1][0] == "user"
    assert "'tomorrow' does not match" in second[-1][1]
    assert third[: len(second)] == second
    assert "'2026' does not match" in third[-1][1]


def test_token_usage_of_all_feedback_retries_is_added_up() -> None:
    usage = ScriptedBackend("tomorrow", "2026", "2026-01-31").generate("When?", grammar=DATE).token_usage
    assert usage == TokenUsage(30, 15, 3)  # A count that one request lacks is unknown.


def test_feedback_retries_end_after_two() -> None:
    model = ScriptedBackend(*["no"] * 9)
    with pytest.raises(InvalidOutput, match="'no' does not match") as raised:
        model.generate("When?", grammar=DATE)
    assert len(model.requests) == 3
    assert raised.value.text == "no"
    assert raised.value.partial is not None


def test_feedback_retry_passes_through_retry_and_limit() -> None:
    model = ScriptedBackend("no", [ConnectionFailed("reset")], "2026-01-31", max_concurrency=1)
    assert model.generate("When?", grammar=DATE).parsed == "2026-01-31"
    assert len(model.requests) == 3


def test_truncated_output_gets_no_feedback_retry() -> None:
    model = ScriptedBackend(["2026-", Delta(finish_reason="length")], "2026-01-31")
    with pytest.raises(InvalidOutput, match="truncated by max_tokens"):
        model.generate("When?", grammar=DATE)
    assert len(model.requests) == 1


def test_error_names_the_stop_sequence_that_truncated_the_output() -> None:
    model = ScriptedBackend('{"age": 3}', capabilities={"grammars": {JSONSchema}})
    with pytest.raises(InvalidOutput, match="truncated by the stop sequence '}'"):
        model.generate("When?", grammar=SCHEMA, stop_sequences=["}"])


def test_streamed_output_gets_no_feedback_retry() -> None:
    model = ScriptedBackend(["tomo", "rrow"], "2026-01-31")
    texts = []
    with pytest.raises(InvalidOutput, match="'tomorrow' does not match"):
        for delta in model.generate_stream("When?", grammar=DATE):
            texts.append(delta.content)
    assert texts == ["tomo", "rrow"]
    assert len(model.requests) == 1


def test_valid_streamed_output_is_parsed_in_the_last_delta() -> None:
    deltas = list(ScriptedBackend(["2026-", "01-31"]).generate_stream("When?", grammar=DATE))
    assert [delta.content for delta in deltas] == ["2026-", "01-31", None]
    assert (deltas[-1].parsed, deltas[-1].enforcement, deltas[-1].token_usage) == (
        "2026-01-31", "validated", TokenUsage(10, 5, 1),
    )  # fmt: skip


def test_pydantic_error_is_reported_in_one_line() -> None:
    model = ScriptedBackend('{"age": "x"}', '{"age": "x"}', "{", capabilities={})
    with pytest.raises(InvalidOutput) as raised:
        model.generate("?", grammar=Person)
    assert "\n" not in str(raised.value)
    assert "at $.age: Input should be a valid integer" in model.requests[1].messages[-1].text


def test_response_format_text_has_no_effect() -> None:
    model = ScriptedBackend("hello")
    assert model.generate("?", response_format={"type": "text"}).enforcement is None


# --- tools ------------------------------------------------------------------------------------------------------------

ALL_CHOICES = {"auto", "none", "required", "named"}


@pytest.mark.parametrize(
    ("supported", "choice", "sent", "tools"),
    [
        (ALL_CHOICES, "auto", "auto", 2),
        (ALL_CHOICES, "required", "required", 2),
        (ALL_CHOICES, "none", "none", 2),
        (ALL_CHOICES, "weather", NamedToolChoice("weather"), 2),
        ({"auto", "none", "required"}, "weather", "required", 1),  # If only one tool is sent, any call is one of it.
        ({"auto"}, "weather", "auto", 1),
        ({"auto"}, "required", "auto", 2),
        ({"auto"}, "none", "auto", 0),
    ],
    ids=[
        "auto", "required", "none", "named", "named as required", "named as auto", "required as auto",
        "none as no tools",
    ],
)  # fmt: skip
def test_tool_choice_is_replaced_by_one_that_the_backend_supports(
    supported: set[str], choice: str, sent: Any, tools: int
) -> None:
    response: Any = "no call" if choice in ("none", "auto") else tool_call("weather", '{"city": "Paris"}')
    model = ScriptedBackend(response, capabilities={"tools": True, "tool_choices": supported})
    message = model.generate("?", tools=[WEATHER, TIME], tool_choice=choice)
    assert (model.requests[0].tool_choice, len(model.requests[0].tools)) == (sent, tools)
    weakened = choice in ("required", "weather") and sent == "auto"
    assert any(warning.type == "not_enforced" for warning in message.warnings) == weakened


@pytest.mark.parametrize("supported", [{"auto"}, ALL_CHOICES], ids=["auto", "all"])
def test_missing_required_call_is_an_error(supported: set[str]) -> None:
    model = ScriptedBackend("I'd rather not.", capabilities={"tools": True, "tool_choices": supported})
    with pytest.raises(InvalidToolCall, match="made none") as raised:
        model.generate("?", tools=[WEATHER], tool_choice="required")
    assert raised.value.text == "I'd rather not."
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
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
def test_invalid_call_is_an_error_with_its_raw_arguments(name: str, arguments: str, problem: str) -> None:
    model = ScriptedBackend(tool_call(name, arguments), capabilities=TOOLS)
    with pytest.raises(InvalidToolCall, match=problem) as raised:
        model.generate("?", tools=[WEATHER, TIME])
    assert raised.value.text == (arguments or "{}")
    assert raised.value.partial is not None
    assert not isinstance(raised.value, StreamInterrupted)


def test_error_of_a_truncated_call_mentions_max_tokens() -> None:
    response = [tool_call("weather", '{"city": "Par')[0], Delta(finish_reason="length")]
    with pytest.raises(InvalidToolCall, match="no valid JSON; the output was truncated by max_tokens"):
        ScriptedBackend(response, capabilities=TOOLS).generate("?", tools=[WEATHER])


def test_invalid_tool_schema_is_refused_before_anything_is_sent() -> None:
    model = ScriptedBackend(tool_call("weather", "{}"), capabilities=TOOLS)
    for broken in ({"type": "objekt"}, {"$ref": "#/$defs/nowhere"}):
        with pytest.raises(InvalidRequest, match=r"tools\[1\] \('f'\): .*(objekt|nowhere)"):
            model.generate("?", tools=[TIME, Tool("f", "", {"type": "object", "properties": {"city": broken}})])
    assert model.requests == []


@pytest.mark.parametrize("streamed", [False, True])
def test_tool_schema_that_fails_at_validation_is_an_invalid_call(streamed: bool) -> None:
    self_reference = {"$ref": "#/$defs/a"}
    schema = {"type": "object", "properties": {"a": self_reference}, "$defs": {"a": self_reference}}
    model = ScriptedBackend(tool_call("f", '{"a": "x"}'), capabilities=TOOLS)
    with pytest.raises(InvalidToolCall, match="schema can't be used") as raised:
        call(model, streamed, tools=[Tool("f", "", schema)])
    assert raised.value.text == '{"a": "x"}'


def call(model: Model, streamed: bool, **options: Any) -> ChatMessage:
    if not streamed:
        return model.generate("?", **options)
    with model.generate_stream("?", **options) as stream:
        list(stream)
        return stream.message


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("supported", [{"auto"}, ALL_CHOICES], ids=["auto", "all"])
@pytest.mark.parametrize(
    ("choice", "problem"),
    [("none", "tool_choice='none' does not allow a call"), ("time", "tool_choice allows only a call of 'time'")],
)
def test_call_that_tool_choice_does_not_allow_is_an_error(
    streamed: bool, supported: set[str], choice: str, problem: str
) -> None:
    model = ScriptedBackend(
        tool_call("weather", '{"city":"Rome"}'), capabilities={"tools": True, "tool_choices": supported}
    )
    with pytest.raises(InvalidToolCall, match=problem) as raised:
        call(model, streamed, tools=[WEATHER, TIME], tool_choice=choice)
    assert raised.value.text == '{"city":"Rome"}'
    assert raised.value.partial is not None and raised.value.partial.tool_calls


def call_part(index: int | None, arguments: str, name: str = "") -> ChatMessageToolCallStreamDelta:
    return ChatMessageToolCallStreamDelta(index, f"c{index}", "function", ChatMessageToolCallFunction(arguments, name))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "response",
    [
        [Delta(tool_calls=[call_part(0, "{}", "time"), call_part(1, "{}", "time")], finish_reason="tool_calls")],
        [
            Delta(tool_calls=[call_part(1, "", "time")]), Delta(tool_calls=[call_part(2, "{", "time")]),
            Delta(tool_calls=[call_part(1, "{}"), call_part(2, "}")], content="so"),
            Delta(tool_calls=[call_part(2, "")]),
        ],
        [Delta(tool_calls=[call_part(None, "{}", "time")]), Delta(tool_calls=[call_part(None, '{"a": 1}', "time")])],
    ],
    ids=["complete calls", "partial calls", "calls without index"],
)  # fmt: skip
def test_parallel_tool_calls_false_keeps_only_the_first_call(streamed: bool, response: list[Delta]) -> None:
    model = ScriptedBackend(response, copy.deepcopy(response), capabilities=TOOLS)
    message = call(model, streamed, tools=[TIME], parallel_tool_calls=False)
    (kept,) = message.tool_calls
    assert (kept.function.name, kept.function.arguments) == ("time", {})
    assert [(one.type, one.feature) for one in message.warnings] == [("discarded", "parallel_tool_calls")]
    assert len(call(model, streamed, tools=[TIME]).tool_calls or ()) == 2


def test_parallel_tool_calls_false_with_one_call_adds_no_warning() -> None:
    message = call(
        ScriptedBackend(tool_call("time", "{}"), capabilities=TOOLS), True, tools=[TIME], parallel_tool_calls=False
    )
    assert message.tool_calls and not message.warnings


def test_finish_reason_stop_becomes_tool_calls_if_there_are_calls() -> None:
    response = [tool_call("time", "{}")[0], Delta(finish_reason="stop")]
    assert ScriptedBackend(response, capabilities=TOOLS).generate("?", tools=[TIME]).finish_reason == "tool_calls"


def test_grammar_with_tools_applies_to_text_only() -> None:
    capabilities = {"tools": True, "grammars": {JSONSchema}, "grammar_with_tools": True}
    model = ScriptedBackend(tool_call("time", "{}"), '{"age": 3}', capabilities=capabilities)
    assert model.generate("?", tools=[TIME], grammar=SCHEMA).parsed is None
    assert model.generate("?", tools=[TIME], grammar=SCHEMA).parsed == {"age": 3}


def test_tool_choice_none_sends_the_grammar_without_tools() -> None:
    capabilities = {"tools": True, "grammars": {JSONSchema}, "grammar_with_tools": False}
    model = ScriptedBackend('{"age": 3}', capabilities=capabilities)
    assert model.generate("?", tools=[TIME], tool_choice="none", grammar=SCHEMA).parsed == {"age": 3}
    assert model.requests[0].tools == ()


def test_token_usage_comes_once_in_the_last_delta_with_tools() -> None:
    deltas = list(ScriptedBackend(tool_call("time", "{}"), capabilities=TOOLS).generate_stream("?", tools=[TIME]))
    assert [delta.token_usage for delta in deltas] == [None, TokenUsage(10, 5)]
    assert accumulate(deltas).finish_reason == "tool_calls"


def test_arguments_of_the_caller_are_not_changed() -> None:
    messages = [ChatMessage("system", "s"), {"role": "user", "content": [{"type": "text", "text": "?"}]}]
    schema = copy.deepcopy(SCHEMA)
    before = copy.deepcopy(messages)
    capabilities = {"system_role": False, "consecutive_roles": False}
    ScriptedBackend("no", '{"age": 3}', capabilities=capabilities).generate(messages, grammar=schema)
    ScriptedBackend("no call", capabilities=capabilities).generate(messages, tools=[WEATHER])
    assert (messages, schema) == (before, SCHEMA)
