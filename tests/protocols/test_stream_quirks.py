# ruff: noqa: E501
"""Where some services put usage, errors and messages in their chunks."""

from __future__ import annotations

from typing import Any

import pytest

from modelport import OpenAIServerModel
from modelport.errors import (
    AuthenticationError,
    ContentFiltered,
    ContextWindowExceeded,
    InvalidRequest,
    MalformedResponse,
    RateLimited,
    ServerError,
)
from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.types.deltas import accumulate


def chunk(delta: Any, *, finish: str | None = None, **choice: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish, **choice}]}


def read(*chunks: Any) -> Any:
    reader = ChatResponseReader()
    deltas = [delta for data in chunks if (delta := reader.read_chunk(data)) is not None]
    return accumulate([*deltas, reader.finish()])


USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "last",
    [
        {**chunk({}, finish="stop"), "usage": USAGE},
        {**chunk({}, finish="stop"), "x_groq": {"id": "req_1", "usage": USAGE}},
        chunk({}, finish="stop", usage=USAGE),
        {**chunk({}, finish="stop"), "x_groq": "odd", "usage": USAGE},
    ],
)
def test_usage_counts_wherever_a_service_puts_it(last: Any) -> None:
    message = read(chunk({"content": "Hi"}), last)
    assert (message.token_usage.input_tokens, message.token_usage.output_tokens) == (5, 2)


@pytest.mark.parametrize(
    ("chunks", "content"),
    [
        # A cumulative message in the last chunk, in every chunk, or in every chunk beside empty deltas.
        ([chunk({"content": "Hel"}), chunk({"content": "lo"}), chunk({}, finish="stop", message={"content": "Hello"})], "Hello"),
        ([chunk({"content": "Hel"}, message={"content": "Hel"}), chunk({"content": "lo"}, message={"content": "Hello"}), chunk({}, finish="stop", message={"content": "Hello"})], "Hello"),
        ([chunk({}, message={"content": "Hel"}), chunk({}, message={"content": "Hello"}), chunk({}, finish="stop", message={"content": "Hello"})], "Hello"),
        # The complete answer in one chunk.
        ([chunk({}, finish="stop", message={"content": "Hello"})], "Hello"),
        ([{"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "Hello"}}]}], "Hello"),
        ([chunk(None, finish="stop", message={"content": "Hello"})], "Hello"),
        ([chunk({"content": "Hello"}), chunk({}, finish="stop", message=None)], "Hello"),
        ([chunk({"content": "Hello"}), chunk({}, finish="stop", message={"content": [{"type": "text", "text": "Hello"}]})], "Hello"),
    ],
)  # fmt: skip
def test_cumulative_message_doubles_nothing(chunks: list[Any], content: str) -> None:
    assert read(*chunks).content == content


def test_cumulative_message_doubles_no_call_and_no_reasoning() -> None:
    complete = {"content": "", "reasoning_content": "Well.", "tool_calls": [CALL]}
    message = read(
        chunk({"reasoning_content": "Well."}), chunk({"tool_calls": [CALL]}),
        chunk({}, finish="tool_calls", message=complete),
    )  # fmt: skip
    assert (message.reasoning, len(message.tool_calls)) == ("Well.", 1)
    message = read(chunk({}, finish="tool_calls", message=complete))
    assert (message.reasoning, len(message.tool_calls)) == ("Well.", 1)


def test_error_in_a_list_or_in_x_groq_is_raised() -> None:
    listed = [{"error": {"code": 429, "message": "Slow down.", "status": "RESOURCE_EXHAUSTED"}}]
    with pytest.raises(RateLimited, match="Slow down"):
        read(listed)
    with pytest.raises(RateLimited, match="Slow down"):
        ChatResponseReader().read_response(listed)
    with pytest.raises(ServerError, match="over capacity"):
        read(chunk({"content": "Hi"}), {"x_groq": {"error": "over capacity"}, "choices": []})


@pytest.mark.parametrize("data", [[], [1], [{}], [[]], chunk({}, message=3, finish="stop")])
def test_other_data_is_no_chunk(data: Any) -> None:
    with pytest.raises(MalformedResponse):
        read(data)


@pytest.mark.parametrize("name", ["gpt-6", "gpt-6-astra", "gpt-5.6", "openai/gpt-6-luna"])
def test_first_call_of_gpt_6_needs_one_request(name: str) -> None:
    """Its profile says what it rejects: stop sequences, and `max_tokens` under its old name."""
    capabilities = OpenAIServerModel(name, api_key="k").capabilities
    assert not capabilities.stop
    assert capabilities.renamed == {"max_tokens": "max_completion_tokens"}


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (1002, "rate limit", RateLimited), (1039, "token limit", RateLimited), (2056, "usage limit exceeded", RateLimited),
        (1004, "login fail", AuthenticationError), (2049, "invalid api key", AuthenticationError),
        (1008, "insufficient balance", RateLimited), (1026, "input new_sensitive", ContentFiltered),
        (1027, "output new_sensitive", ContentFiltered), (1033, "system error", ServerError),
        (2013, "invalid params, context window exceeds limit", ContextWindowExceeded), (2013, "invalid params", InvalidRequest),
    ],
)  # fmt: skip
def test_error_of_minimax_in_a_response_with_status_200_is_raised(code: int, text: str, kind: type[Exception]) -> None:
    body = {"id": "1", "choices": None, "base_resp": {"status_code": code, "status_msg": text}}
    for method in (ChatResponseReader().read_response, ChatResponseReader().read_chunk):
        with pytest.raises(kind, match=rf"{text} \({code}\)") as caught:
            method(body)
        assert type(caught.value) is kind


@pytest.mark.parametrize("field", [{"status_code": 0, "status_msg": ""}, {}, None, "odd"])
def test_other_response_of_minimax_is_read(field: Any) -> None:
    message = read(
        {**chunk({"content": "Hi"}), "base_resp": field}, {"choices": [], "base_resp": field}, chunk({}, finish="stop")
    )
    assert message.content == "Hi"
