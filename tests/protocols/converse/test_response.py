"""Converse responses and stream events as deltas and messages."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given, settings
from hypothesis import strategies as st

from modelport import ChatMessage, InvalidToolCall, MalformedResponse, ModelError, accumulate
from modelport.protocols.converse.request import ConverseCall
from modelport.protocols.converse.response import ConverseResponseReader, usage_from
from tests.protocols.converse.examples import PNG
from tests.servers.bedrock import Converse
from tests.servers.faults import Call

CALL = ConverseCall({}, allows_tool_calls=True)
EXAMPLES = settings().max_examples


def message_from(content: list[Any], stop_reason: str = "end_turn") -> ChatMessage:
    response = {"output": {"message": {"role": "assistant", "content": content}}, "stopReason": stop_reason}
    return accumulate([ConverseResponseReader(CALL).read_response(response)])


def test_usage_includes_cached_tokens_in_input_tokens() -> None:
    usage = {"inputTokens": 3, "outputTokens": 5, "cacheReadInputTokens": 100, "cacheWriteInputTokens": 7}
    counted = usage_from(usage)
    assert (counted.input_tokens, counted.output_tokens, counted.cached_input_tokens) == (110, 5, 100)
    counted = usage_from({"inputTokens": 3, "outputTokens": 5})
    assert (counted.input_tokens, counted.cached_input_tokens) == (3, None)
    assert usage_from({}).input_tokens is None


def test_response_with_calls_has_finish_reason_tool_calls_whatever_the_stop_reason() -> None:
    use = {"toolUse": {"toolUseId": "a", "name": "f", "input": {"b": 1}}}
    message = message_from([{"text": "I look."}, use])
    assert (message.content, message.finish_reason) == ("I look.", "tool_calls")
    assert message.tool_calls and message.tool_calls[0].function.arguments == {"b": 1}


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [
        ("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length"), ("tool_use", "tool_calls"),
        ("guardrail_intervened", "content_filter"), ("content_filtered", "content_filter"),
        ("model_context_window_exceeded", "length"), ("something_new", "stop"), ("refusal", "content_filter"),
    ],
)  # fmt: skip
def test_stop_reason_becomes_finish_reason(stop_reason: str, finish_reason: str) -> None:
    message = message_from([{"text": "a"}], stop_reason)
    assert message.finish_reason == finish_reason
    assert ["'something_new'" in str(w) for w in message.warnings] == [True] * (stop_reason == "something_new")


def test_only_stop_sequence_of_the_request_is_named_in_the_message() -> None:
    call = ConverseCall({"inferenceConfig": {"stopSequences": ["END"]}}, True)
    response = {"output": {"message": {"content": [{"text": "a"}]}}, "stopReason": "stop_sequence"}
    assert ConverseResponseReader(call).read_response(response).stop_sequence == "END"


def test_content_without_a_field_in_the_message_is_in_raw_with_warning() -> None:
    cited = {"citationsContent": {"content": [{"text": "cited"}], "citations": [{"title": "t"}]}}
    image = {"image": {"format": "png", "source": {"bytes": PNG}}}
    server = {"toolUse": {"toolUseId": "a", "name": "nova_grounding", "input": {}, "type": "server_tool_use"}}
    message = message_from([server, cited, image])
    assert (message.text, message.tool_calls) == ("cited", None)
    assert len(message.warnings) == 3
    assert message.raw["output"]["message"]["content"][1] is cited


def test_tool_call_that_was_not_allowed_raises_invalid_tool_call() -> None:
    call = ConverseCall({}, allows_tool_calls=False)
    start = {"contentBlockStart": {"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "a", "name": "f"}}}}
    with pytest.raises(InvalidToolCall, match="'f' although no tool call was allowed"):
        ConverseResponseReader(call).read_event(start)


def test_malformed_response_raises_typed_error() -> None:
    with pytest.raises(MalformedResponse, match="malformed"):
        message_from([], "malformed_model_output")
    with pytest.raises(InvalidToolCall):
        message_from([], "malformed_tool_use")
    no_block = {"output": {"message": {"content": [7]}}, "stopReason": "end_turn"}
    responses: list[Any] = [None, 7, {}, {"output": {}}, no_block]
    for response in responses:
        with pytest.raises(MalformedResponse):
            ConverseResponseReader(CALL).read_response(response)


# --- generated responses ----------------------------------------------------------------------------------------------

CHARACTERS = st.characters(exclude_categories=["Cs"])
RESPONSES = st.builds(
    Converse,
    text=st.text(CHARACTERS, max_size=30),
    calls=st.lists(
        st.builds(
            Call,
            st.sampled_from(["f", "g"]),
            st.dictionaries(st.text(CHARACTERS, max_size=4), st.integers(), max_size=3).map(json.dumps),
            st.uuids().map(str),
        ),
        max_size=3,
    ),
    reasoning=st.text(CHARACTERS, max_size=20),
    signed=st.booleans(),
    piece=st.integers(1, 9),
)


@settings(max_examples=EXAMPLES * 3 // 2, derandomize=True, deadline=None)
@given(RESPONSES)
def test_stream_accumulates_to_the_non_streaming_message(response: Converse) -> None:
    reader = ConverseResponseReader(CALL)
    deltas = []
    for frame in response.events():
        buffer = EventStreamBuffer()
        buffer.add_data(frame)
        for event in buffer:
            deltas.append(reader.read_event({event.headers[":event-type"]: json.loads(event.payload)}))
    streamed = accumulate([delta for delta in [*deltas, reader.finish()] if delta is not None])
    assert streamed == accumulate([ConverseResponseReader(CALL).read_response(json.loads(response.body()))])
    assert streamed.reasoning == (response.reasoning or None)
    assert bool(streamed.provider_data) == (response.signed and bool(response.reasoning))


ANY_JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
        st.sampled_from(["text", "toolUse", "reasoningContent", "reasoningText", "redactedContent", "signature",
                         "delta", "start", "contentBlockIndex", "input", "name", "toolUseId", "stopReason", "usage",
                         "output", "message", "content", "inputTokens", "trace", "promptRouter", "citationsContent"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
EVENT_TYPES = st.sampled_from(
    ["contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata", "new"]
)


@settings(max_examples=EXAMPLES * 4, derandomize=True, deadline=None)
@given(st.lists(st.dictionaries(EVENT_TYPES, ANY_JSON, min_size=1, max_size=1), max_size=6), ANY_JSON)
def test_any_json_is_read_as_a_response_or_raises_model_error(events: list[Any], response: Any) -> None:
    reader = ConverseResponseReader(CALL)
    for read in (
        lambda: [*map(reader.read_event, events), reader.finish()],
        lambda: [ConverseResponseReader(CALL).read_response(response)],
    ):
        try:
            accumulate([delta for delta in read() if delta is not None])
        except ModelError:
            pass


DEEP: Any = []
for _ in range(200):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "block",
    [
        {"reasoningContent": {"reasoningText": {"text": "a", "signature": ["s"]}}},
        {"reasoningContent": {"reasoningText": {"text": "a", "signature": {"s": DEEP}}}},
        {"reasoningContent": {"reasoningText": {"text": ["a"], "signature": "s"}}},
        {"reasoningContent": {"redactedContent": "a"}},
        {"toolUse": {"toolUseId": "a", "name": "f", "input": {"a": DEEP}}},
        ["a", None, False],
    ],
)
def test_value_of_another_type_in_a_block_raises_malformed_response(block: Any) -> None:
    with pytest.raises(MalformedResponse, match="not a Converse response"):
        message_from([block])


@pytest.mark.parametrize(
    "part", [{"text": 1}, {"signature": ["s"]}, {"redactedContent": "s"}, {"redactedContent": None}, {"text": None}]
)
def test_value_of_another_type_in_a_reasoning_event_raises_malformed_response(part: Any) -> None:
    event = {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"reasoningContent": part}}}
    with pytest.raises(MalformedResponse, match="not a Converse response"):
        ConverseResponseReader(CALL).read_event(event)


@pytest.mark.parametrize("model_id", [5, ["m"], {"m": 1}, None])
def test_id_of_another_type_of_the_invoked_model_is_ignored(model_id: Any) -> None:
    response = {"output": {"message": {"content": []}}, "stopReason": "end_turn",
                "trace": {"promptRouter": {"invokedModelId": model_id}}}  # fmt: skip
    assert ConverseResponseReader(CALL).read_response(response).model_id is None


@pytest.mark.parametrize(("field", "piece"), [("text", "x"), ("signature", "x"), ("redactedContent", b"x")])
def test_reasoning_in_small_pieces_takes_linear_time(field: str, piece: Any) -> None:
    """After a first piece of 4 MiB, each later piece copied it: 20,000 pieces copied 80 GiB."""
    reader = ConverseResponseReader(CALL)

    def read(value: Any) -> None:
        delta = {"reasoningContent": {field: value}}
        reader.read_event({"contentBlockDelta": {"contentBlockIndex": 0, "delta": delta}})

    begin = time.process_time()
    read(piece * 2**22)
    for _ in range(20_000):
        read(piece)
    last = reader.read_event({"contentBlockStop": {"contentBlockIndex": 0}})
    assert (last is None) == (field == "text")
    assert time.process_time() - begin < 2
