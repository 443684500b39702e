"""Finish reasons: the words of all vendors, and what they mean. The values are from the vendors' pages."""

from __future__ import annotations

from typing import Any

import pytest

from modelport.errors import InvalidRequest, InvalidToolCall, MalformedResponse, ModelError, RateLimited, ServerError
from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.protocols.finish_reasons import FINISH_WORDS, finish_error, finish_reason_from, finish_warning
from modelport.types.deltas import ChatMessageStreamDelta, accumulate

#: The word of the service -> modelport's finish reason, or the class of the error.
WORDS: dict[str, str | type[ModelError]] = {
    "stop": "stop", "STOP": "stop", "eos": "stop", "eos_token": "stop", "end_turn": "stop", "stop_sequence": "stop",
    "COMPLETE": "stop",
    "length": "length", "max_tokens": "length", "MAX_TOKENS": "length", "max_output_tokens": "length",
    "model_length": "length", "model_context_window_exceeded": "length", "ERROR_LIMIT": "length",
    "tool_calls": "tool_calls", "tool-calls": "tool_calls", "function_call": "tool_calls", "tool_use": "tool_calls",
    "TOOL_CALL": "tool_calls",
    "content_filter": "content_filter", "content-filter": "content_filter", "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter", "sensitive": "content_filter", "refusal": "content_filter",
    "SAFETY": "content_filter", "RECITATION": "content_filter", "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter", "SPII": "content_filter", "ERROR_TOXIC": "content_filter",
    "content_policy_violation": "content_filter", "content_policy": "content_filter",
    "content_filter: SAFETY": "content_filter",
    "error": ServerError, "ERROR": ServerError, "network_error": ServerError, "abort": ServerError,
    "insufficient_system_resource": ServerError, "engine_overloaded": ServerError, "failed": ServerError,
    "USER_CANCEL": ServerError, "cancelled": ServerError, "time_limit": ServerError,
    "malformed_function_call": InvalidToolCall, "MALFORMED_FUNCTION_CALL": InvalidToolCall,
    "function_call_filter: MALFORMED_FUNCTION_CALL": InvalidToolCall, "UNEXPECTED_TOOL_CALL": InvalidToolCall,
    "function_call_filter: UNEXPECTED_TOOL_CALL": InvalidToolCall, "TOO_MANY_TOOL_CALLS": InvalidToolCall,
    "malformed_model_output": MalformedResponse, "MALFORMED_RESPONSE": MalformedResponse,
    "MISSING_THOUGHT_SIGNATURE": InvalidRequest,
}  # fmt: skip


def read(*choices: dict[str, Any], streamed: bool) -> Any:
    """Return the message of a response that has these choices in its chunks, or in its body."""
    reader = ChatResponseReader()
    if not streamed:
        return accumulate([reader.read_response({"choices": [choices[-1]]})])
    deltas = [reader.read_chunk({"choices": [choice]}) for choice in choices]
    return accumulate([*filter(None, deltas), reader.finish()])


def ending(word: Any, **fields: Any) -> dict[str, Any]:
    return {"index": 0, "message": {"content": "Paris"}, "finish_reason": word, **fields}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("word", "expected"), WORDS.items(), ids=WORDS)
def test_finish_reason_of_any_vendor_is_understood(word: str, expected: Any, streamed: bool) -> None:
    if isinstance(expected, str):
        message = read(ending(word), streamed=streamed)
        assert (message.content, message.finish_reason, message.warnings) == ("Paris", expected, [])
        return
    with pytest.raises(expected) as caught:
        read(ending(word), streamed=streamed)
    assert type(caught.value) is expected
    assert word in str(caught.value)
    assert caught.value.retryable is (expected is not InvalidRequest)
    assert caught.value.reported_as_interruption


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("word", ["pause_turn", "OTHER", 7, {"type": "x"}, "x" * 5000])
def test_unknown_finish_reason_is_stop_with_warning(word: Any, streamed: bool) -> None:
    message = read(ending(word), streamed=streamed)
    assert message.finish_reason == "stop"
    (warning,) = message.warnings
    assert warning.feature == "finish_reason"
    assert str(word)[:40] in str(warning) and len(str(warning)) < 300


@pytest.mark.parametrize("word", [None, "", "null", "NULL"])
def test_placeholder_of_finish_reason_does_not_end_the_stream(word: Any) -> None:
    message = read(ending(word), {"delta": {"content": "!"}, "finish_reason": "length"}, streamed=True)
    assert (message.content, message.finish_reason, message.warnings) == ("Paris!", "length", [])
    with pytest.raises(MalformedResponse, match="without a finish reason"):
        read(ending(word), streamed=True)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("fields", "kind", "status"),
    [
        ({"error": {"code": 502, "message": "Upstream is down"}}, ServerError, 502),
        ({"error": {"code": 429, "message": "Upstream is busy"}}, RateLimited, 429),
        ({"error": "Upstream is down"}, ServerError, None),
    ],
)
def test_error_of_choice_is_raised(fields: dict[str, Any], kind: Any, status: int | None, streamed: bool) -> None:
    with pytest.raises(kind, match="Upstream is") as caught:
        read(ending("error", **fields), streamed=streamed)
    assert caught.value.status == status


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("word", "original", "expected"),
    [
        ("stop", "network_error", ServerError),
        ("stop", "MALFORMED_FUNCTION_CALL", InvalidToolCall),
        ("error", "MALFORMED_FUNCTION_CALL", InvalidToolCall),
        ("stop", "refusal", "content_filter"),
        ("stop", "STOP", "stop"),
        ("length", "MAX_TOKENS", "length"),
        ("stop", "some word of a vendor", "stop"),
    ],
)
def test_native_finish_reason_of_openrouter_is_used_for_failures(
    word: str, original: str, expected: Any, streamed: bool
) -> None:
    choice = ending(word, native_finish_reason=original)
    if isinstance(expected, str):
        message = read(choice, streamed=streamed)
        assert (message.finish_reason, message.warnings) == (expected, [])
    else:
        with pytest.raises(expected):
            read(choice, streamed=streamed)


@pytest.mark.parametrize(
    ("word", "original", "expected", "warns"),
    [
        ("stop", "abort", ServerError, False),
        ("stop", "MALFORMED_FUNCTION_CALL", InvalidToolCall, False),
        ("length", "max_tokens", "length", False),
        ("content_filter", "OTHER", "content_filter", False),
        ("stop", "pause_turn", "stop", True),
    ],
)
def test_native_finish_reason_of_litellm_is_used(word: str, original: str, expected: Any, warns: bool) -> None:
    choice = ending(word, provider_specific_fields={"native_finish_reason": original})
    if isinstance(expected, str):
        message = read(choice, streamed=False)
        assert message.finish_reason == expected
        assert [original in str(warning) for warning in message.warnings] == [True] * warns
    else:
        with pytest.raises(expected):
            read(choice, streamed=False)


def test_every_word_of_the_table_is_unique_has_a_source_and_one_meaning() -> None:
    words = [entry.word for entry in FINISH_WORDS]
    assert len(words) == len(set(words))
    without_page = [entry.word for entry in FINISH_WORDS if not entry.source.startswith("https://")]
    assert without_page == ["aborted"]
    for word in words:
        assert finish_warning(word) is None
        assert finish_error(word) or finish_reason_from(word) in ("stop", "length", "tool_calls", "content_filter")


def test_deltas_before_a_failure_are_delivered() -> None:
    reader = ChatResponseReader()
    delta = reader.read_chunk({"choices": [{"delta": {"content": "Par"}, "finish_reason": "network_error"}]})
    assert delta == ChatMessageStreamDelta(content="Par")
    with pytest.raises(ServerError):
        reader.finish()
