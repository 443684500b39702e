"""The estimate of a request's tokens."""

from __future__ import annotations

from typing import Any

import pytest

from modelport.errors import InvalidRequest
from modelport.layers.limit.estimate import estimate_tokens, text_size
from modelport.layers.limit.layer import Limit
from modelport.types.messages import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction
from modelport.types.request import Request

from .limit_backend import Backend, request, send

CALL = ChatMessageToolCall(ChatMessageToolCallFunction({"city": "Paris"}, "weather"), "c1")


@pytest.mark.parametrize(
    ("message", "size"),
    [
        (ChatMessage("user", ""), 0),
        (ChatMessage("user", "abc"), 3),
        (ChatMessage("user", "éé"), 4),
        (ChatMessage("assistant", "abc", tool_calls=[CALL]), 3 + len("weather") + len('{"city": "Paris"}')),
    ],
    ids=["empty", "ASCII", "UTF-8", "a tool call"],
)
def test_text_size_counts_bytes_of_text_and_tool_calls(message: ChatMessage, size: int) -> None:
    assert text_size(message) == size


@pytest.mark.parametrize(
    ("text", "parameters", "longest_output", "tokens"),
    [
        ("x" * 20, {}, 0, 11 + 1024),
        ("x" * 20, {}, 300, 11 + 300),
        ("x" * 20, {"max_tokens": 39}, 300, 11 + 39),
        ("", {"max_tokens": 1}, 0, 1 + 1),
        ("x" * 10_000, {"max_tokens": 5000}, 0, 5000),
    ],
    ids=["output unknown", "longest output", "max_tokens", "empty prompt", "at most the limit"],
)
def test_estimate_tokens(text: str, parameters: dict[str, Any], longest_output: int, tokens: int) -> None:
    assert estimate_tokens(request(text, **parameters), 5000, longest_output) == tokens


def test_estimate_tokens_counts_all_messages() -> None:
    messages = (ChatMessage("system", "x" * 30), ChatMessage("user", "y" * 10))
    assert estimate_tokens(Request(messages, parameters={"max_tokens": 5}), 100, 0) == 20 + 1 + 5


async def test_token_limit_refuses_max_tokens_above_the_limit() -> None:
    backend = Backend()
    with pytest.raises(InvalidRequest, match=r"max_tokens=101 is above tokens_per_minute=100"):
        await send(Limit(tokens_per_minute=100), backend, request(max_tokens=101))
    assert backend.times == []
