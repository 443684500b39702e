"""Messages in shapes that are easily read as empty: `function_call`, media alone, arguments `null`."""

from __future__ import annotations

from typing import Any

import pytest

from modelport import ChatMessage
from modelport.inputs.calls_in_text import parse_arguments
from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.types.deltas import accumulate


def read(*parts: dict[str, Any], streamed: bool, finish: str = "stop") -> ChatMessage:
    """Return the message of a response with these parts: deltas of a stream, or the fields of one message."""
    reader = ChatResponseReader()
    if not streamed:
        message = {key: value for part in parts for key, value in part.items()}
        return accumulate([reader.read_response({"choices": [{"message": message, "finish_reason": finish}]})])
    deltas = [reader.read_chunk({"choices": [{"delta": part}]}) for part in parts]
    reader.read_chunk({"choices": [{"delta": {}, "finish_reason": finish}]})
    return accumulate([*filter(None, deltas), reader.finish()])


def test_legacy_function_call_is_a_tool_call() -> None:
    whole = read({"function_call": {"name": "f", "arguments": '{"a": 1}'}}, streamed=False, finish="function_call")
    fragments = [{"name": "f", "arguments": ""}, {"arguments": '{"a"'}, {"arguments": ": 1}"}]
    pieces = read(*({"function_call": one} for one in fragments), streamed=True, finish="function_call")
    for message in (whole, pieces):
        assert message.tool_calls is not None and message.finish_reason == "tool_calls"
        (call,) = message.tool_calls
        assert (call.function.name, call.function.arguments, bool(call.id)) == ("f", {"a": 1}, True)


def test_function_call_beside_tool_calls_is_the_same_call() -> None:
    function = {"name": "f", "arguments": "{}"}
    message = read({"tool_calls": [{"id": "a", "function": function}], "function_call": function}, streamed=False)
    assert message.tool_calls and [call.id for call in message.tool_calls] == ["a"]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("parts", "content", "features"),
    [
        ([{"content": None, "audio": {"id": "a", "data": "UklGRg==", "transcript": "Paris."}}], "Paris.", ["audio"]),
        ([{"audio": {"id": "a", "data": "UklGRg=="}}], None, ["audio"]),
        ([{"content": "", "images": [{"type": "image_url", "image_url": {"url": "data:…"}}]}], None, ["images"]),
        ([{"content": [{"type": "image_url", "image_url": {"url": "data:…"}}]}], None, ["images"]),
        ([{"content": [{"type": "text", "text": "See:"}, {"type": "file", "file": {}}]}], "See:", ["files"]),
        ([{"content": "Paris."}], "Paris.", []),
    ],
)
def test_media_are_named_in_a_warning(parts: Any, content: str | None, features: list[str], streamed: bool) -> None:
    message = read(*parts, streamed=streamed)
    assert (message.content or None, [warning.feature for warning in message.warnings]) == (content, features)


def test_transcript_of_streamed_audio_is_the_text() -> None:
    parts = [
        {"audio": {"id": "a"}},
        {"audio": {"transcript": "Par"}},
        {"audio": {"data": "U"}},
        {"audio": {"transcript": "is"}},
    ]
    assert read(*parts, streamed=True).content == "Paris"


@pytest.mark.parametrize("streamed", [False, True])
def test_arguments_null_are_an_empty_object(streamed: bool) -> None:
    message = read({"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "null"}}]}, streamed=streamed)
    assert message.tool_calls and message.tool_calls[0].function.arguments == {}
    assert parse_arguments("null") == {}
