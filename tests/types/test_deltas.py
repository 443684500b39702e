"""Deltas, and how `MessageBuilder` adds them up; the tests of `accumulate` are those of messages."""

from __future__ import annotations

from typing import Any

from modelport.types.deltas import (
    ChatMessageStreamDelta,
    ChatMessageToolCallStreamDelta,
    MessageBuilder,
    accumulate,
)
from modelport.types.messages import ChatMessageToolCallFunction
from modelport.types.provider_data import ProviderData
from modelport.types.warnings import CallWarning

FIRST = CallWarning("left_out", "seed", "first")

Delta = ChatMessageStreamDelta


def tool_call_delta(arguments: Any) -> Delta:
    function = ChatMessageToolCallFunction(arguments, "f")
    return Delta(tool_calls=[ChatMessageToolCallStreamDelta(0, "c1", None, function)])


def test_delta_is_empty_without_any_field() -> None:
    assert Delta().is_empty
    for delta in (Delta(content=""), Delta(raw={}), Delta(model_id="m"), Delta(restart=True), Delta(parsed=0)):
        assert not delta.is_empty


def test_restart_discards_the_response_before_it() -> None:
    before = [
        Delta(
            content="a", reasoning="b", logprobs=[{}], provider_data=ProviderData("responses", ({},)), warnings=[FIRST]
        )
    ]
    message = accumulate([*before, tool_call_delta("{}"), Delta(content="new", restart=True)])
    assert (message.content, message.reasoning, message.tool_calls) == ("new", None, None)
    assert (message.logprobs, message.provider_data, message.warnings) == (None, None, [FIRST])


def test_builder_returns_independent_messages_while_deltas_arrive() -> None:
    builder = MessageBuilder("m")
    builder.add(Delta(warnings=[FIRST], logprobs=[{"token": "a"}]))
    assert not builder.has_output
    early = builder.message()
    for delta in (Delta(content="a", warnings=["second"]), tool_call_delta('{"a": 1}')):  # type: ignore[list-item]
        builder.add(delta)
    assert builder.has_output
    assert (early.content, early.warnings, early.tool_calls, early.model_id) == ("", [FIRST], None, "m")
    assert builder.message().warnings == [FIRST, CallWarning("other", None, "second")]
    unparsed = builder.message(parse_arguments=False)
    assert [call.function.arguments for call in unparsed.tool_calls] == ['{"a": 1}']
    assert [call.function.arguments for call in builder.message().tool_calls] == [{"a": 1}]


def test_parsed_tool_arguments_are_replaced_by_later_pieces() -> None:
    """Some services send arguments parsed, and then an empty piece, or the same call twice. The last value counts."""
    pieces = [{"city": "Paris"}, "", '{"city": ', '"Oslo"}', {"city": "Rome"}]
    expected = [{"city": "Paris"}, {"city": "Paris"}, '{"city": ', {"city": "Oslo"}, {"city": "Rome"}]
    for count, arguments in enumerate(expected, 1):
        (call,) = accumulate([tool_call_delta(piece) for piece in pieces[:count]]).tool_calls
        assert call.function.arguments == arguments
