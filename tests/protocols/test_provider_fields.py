"""Provider data of chat completions: what is read from responses, streamed and not, and written into requests."""

from __future__ import annotations

from typing import Any

import pytest

from modelport.errors import ModelError
from modelport.protocols.chat_completions.provider_fields import merged_fields, with_reasoning_parts
from modelport.protocols.chat_completions.request import plain_dict
from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.types.deltas import accumulate
from modelport.types.messages import ChatMessage
from modelport.types.provider_data import ProviderData

TEXT = {"type": "reasoning.text", "format": "anthropic-claude-v1", "index": 0}


def detail(**fields: Any) -> dict[str, Any]:
    return {**TEXT, **fields}


def block(text: str, signature: str | None = None) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": signature}


def thought(text: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}]}


def summary(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text, **fields}]}


#: What is tested, the fields of the deltas of a stream, and the fields of the same message if it is not streamed.
STREAMS: list[tuple[str, list[dict[str, Any]], dict[str, Any]]] = [
    ("text", [{"reasoning_content": "a"}, {"reasoning_content": "b"}], {"reasoning_content": "ab"}),
    ("empty text", [{"reasoning_content": ""}], {"reasoning_content": ""}),
    ("pieces with one index",
     [{"reasoning_details": [detail(text="a")]}, {"reasoning_details": [detail(text="b")]},
      {"reasoning_details": [detail(signature="s")]}],
     {"reasoning_details": [detail(text="ab", signature="s")]}),
    ("pieces of two indices that alternate",
     [{"reasoning_details": [detail(text="a"), detail(text="x", index=1)]},
      {"reasoning_details": [detail(text="b"), detail(text="y", index=1)]}],
     {"reasoning_details": [detail(text="ab"), detail(text="xy", index=1)]}),
    ("one index with two types",
     [{"reasoning_details": [detail(text="a")]}, {"reasoning_details": [detail(type="reasoning.encrypted", data="D")]}],
     {"reasoning_details": [detail(text="a"), detail(type="reasoning.encrypted", data="D")]}),
    ("encrypted entries of two calls with one index",
     [{"reasoning_details": [detail(type="reasoning.encrypted", data="D", id="c1")]},
      {"reasoning_details": [detail(type="reasoning.encrypted", data="E", id="c2")]}],
     {"reasoning_details": [detail(type="reasoning.encrypted", data="D", id="c1"),
                            detail(type="reasoning.encrypted", data="E", id="c2")]}),
    ("entries without an index",
     [{"reasoning_details": [detail(text="a", index=None)]}, {"reasoning_details": [detail(text="b", index=None)]}],
     {"reasoning_details": [detail(text="a", index=None), detail(text="b", index=None)]}),
    ("summary", [{"reasoning_details": [detail(summary="a")]}, {"reasoning_details": [detail(summary="b")]}],
     {"reasoning_details": [detail(summary="ab")]}),
    ("two thinking blocks",
     [{"thinking_blocks": [block("a")]}, {"thinking_blocks": [block("b")]}, {"thinking_blocks": [block("", "s1")]},
      {"thinking_blocks": [block("c")]}, {"thinking_blocks": [block("", "s2")]}],
     {"thinking_blocks": [block("ab", "s1"), block("c", "s2")]}),
    ("encrypted thinking blocks",
     [{"thinking_blocks": [{"type": "redacted_thinking", "data": "D"}]},
      {"thinking_blocks": [{"type": "redacted_thinking", "data": "E"}]}],
     {"thinking_blocks": [{"type": "redacted_thinking", "data": "D"}, {"type": "redacted_thinking", "data": "E"}]}),
    ("signature of the text", [{"extra_content": {"google": {"thought_signature": "s"}}}],
     {"extra_content": {"google": {"thought_signature": "s"}}}),
    ("fields of LiteLLM", [{"provider_specific_fields": {"thought_signatures": ["s"], "citations": None}}],
     {"provider_specific_fields": {"thought_signatures": ["s"]}}),
    ("thinking parts", [{"content": [thought("a")]}, {"content": [thought("b")]}], {"content": [thought("ab")]}),
    ("reasoning parts",
     [{"content": [summary("a")]}, {"content": [summary("b")]}, {"content": [summary("", signature="s")]}],
     {"content": [summary("ab", signature="s")]}),
]  # fmt: skip


def read_stream(deltas: list[dict[str, Any]]) -> ChatMessage:
    reader = ChatResponseReader(service="s")
    pieces = [reader.read_chunk({"choices": [{"delta": delta}]}) for delta in deltas]
    reader.read_chunk({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    return accumulate([piece for piece in [*pieces, reader.finish()] if piece is not None])


def read_message(message: dict[str, Any]) -> ChatMessage:
    response = {"choices": [{"message": message, "finish_reason": "stop"}]}
    return accumulate([ChatResponseReader(service="s").read_response(response)])


@pytest.mark.parametrize(("deltas", "fields"), [case[1:] for case in STREAMS], ids=[case[0] for case in STREAMS])
def test_stream_gives_the_provider_data_of_the_message(deltas: list[dict[str, Any]], fields: dict[str, Any]) -> None:
    expected = ProviderData("chat_completions", (fields,), "s")
    assert read_stream(deltas).provider_data == expected
    assert read_message({"role": "assistant", "content": "hi", **fields}).provider_data == expected


@pytest.mark.parametrize("fields", [case[2] for case in STREAMS], ids=[case[0] for case in STREAMS])
def test_provider_data_is_written_as_it_was_read(fields: dict[str, Any]) -> None:
    message = read_message({"role": "assistant", "content": None, **fields})
    sent = plain_dict(message)
    assert {name: sent[name] for name in fields} == fields
    assert ChatMessage.from_dict(message.to_dict()).provider_data == message.provider_data


def test_output_between_two_pieces_changes_nothing() -> None:
    """The data that precedes the output is emitted with it, so that an interrupted stream has it."""
    first, second = ({"reasoning_details": [detail(text=text)]} for text in "ab")
    message = read_stream([first, {"content": "x"}, second, {"content": "y"}])
    assert (message.content, message.reasoning) == ("xy", "ab")
    assert message.provider_data is not None and len(message.provider_data.items) == 2
    assert merged_fields(message.provider_data.items) == {"reasoning_details": [detail(text="ab")]}


REASONING_TEXTS = [
    ({"reasoning_content": "a", "reasoning_details": [detail(text="a")]}, "a"),
    ({"reasoning": "a", "reasoning_details": [detail(text="a")]}, "a"),
    ({"reasoning_details": [detail(text="a"), detail(summary="b"), detail(data="D")]}, "ab"),
    ({"content": [thought("a"), {"type": "text", "text": "hi"}]}, "a"),
    ({"content": [summary("a"), {"type": "text", "text": "hi"}]}, "a"),
    ({"content": "hi"}, None),
]


@pytest.mark.parametrize(("fields", "expected"), REASONING_TEXTS)
def test_reasoning_is_read_from_any_field(fields: dict[str, Any], expected: str | None) -> None:
    assert read_message({"content": "hi", **fields}).reasoning == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_content": 3}, {"reasoning_details": "x"}, {"reasoning_details": ["x"]}, {"thinking_blocks": {}},
        {"extra_content": "x"}, {"provider_specific_fields": {"refusal": None}}, {"reasoning_content": None},
        {"reasoning_details": []},
    ],
)  # fmt: skip
def test_field_of_another_type_is_no_provider_data(fields: dict[str, Any]) -> None:
    try:
        assert read_message({"content": "hi", **fields}).provider_data is None
    except ModelError:
        assert fields == {"reasoning_content": 3}  # It is not a text, which is an error of its own.


CONTENTS: list[tuple[list[dict[str, Any]], Any, Any]] = [
    ([thought("a"), {"type": "text", "text": "hi"}], "hi", [thought("a"), {"type": "text", "text": "hi"}]),
    ([thought("a"), {"type": "text", "text": "hi there"}], "hi", [thought("a"), {"type": "text", "text": "hi"}]),
    ([thought("a")], "hi", [thought("a"), {"type": "text", "text": "hi"}]),
    ([thought("a")], None, [thought("a")]),
    ([thought("a")], [{"type": "text", "text": "x"}], [thought("a"), {"type": "text", "text": "x"}]),
]


@pytest.mark.parametrize(("parts", "content", "expected"), CONTENTS)
def test_reasoning_parts_stand_before_the_content_that_the_message_has(
    parts: list[dict[str, Any]], content: Any, expected: Any
) -> None:
    assert with_reasoning_parts(parts, content) == expected


def test_signature_of_parallel_calls_stays_on_the_first_call() -> None:
    signature = {"extra_content": {"google": {"thought_signature": "s"}}}
    function = {"name": "f", "arguments": "{}"}
    calls = [{"id": "a", "type": "function", "function": function, **signature},
             {"id": "b", "type": "function", "function": function}]  # fmt: skip
    whole = read_message({"content": None, "tool_calls": calls})
    streamed = read_stream([{"tool_calls": [{"index": i, **call}]} for i, call in enumerate(calls)])
    for message in (whole, streamed, ChatMessage.from_dict(whole.to_dict())):
        assert plain_dict(message)["tool_calls"] == calls


def test_complete_message_after_its_pieces_is_not_read_again() -> None:
    reader = ChatResponseReader(service="s")
    fields = {"reasoning_details": [detail(text="a")]}
    pieces = [reader.read_chunk({"choices": [{"delta": fields}]})]
    pieces.append(reader.read_chunk({"choices": [{"delta": {}, "message": fields, "finish_reason": "stop"}]}))
    message = accumulate([piece for piece in [*pieces, reader.finish()] if piece is not None])
    assert message.provider_data == ProviderData("chat_completions", (fields,), "s")
