"""Large responses that are no chat completions: the error is made from their beginning, in little time."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from modelport.errors import MalformedResponse, ModelError
from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.remote.http.redaction import secrets_in
from modelport.remote.http.responses import read_json
from modelport.types.deltas import (
    ChatMessageStreamDelta,
    ChatMessageToolCallFunction,
    ChatMessageToolCallStreamDelta,
    accumulate,
)

SECRETS = secrets_in({"Authorization": "Bearer sk-" + "a1b2" * 32})
LISTS = b"[" + b"[]," * 1_000_000 + b"[]]"
LARGE: dict[str, bytes] = {
    "a list of lists": LISTS,
    "lists in an object": b'{"a": %b}' % LISTS,
    "an error": b'{"error": {"message": %b}}' % LISTS,
    "choices that are lists": b'{"choices": %b}' % LISTS,
    "a message that is a list": b'{"choices": [{"message": {"content": %b}, "delta": {"content": %b}}]}'
    % (LISTS[: len(LISTS) // 8 * 3] + b"[]]", b"[]"),
    "escapes": b'{"a": "' + b"\\u0041" * 500_000 + b'"}',
    "backslashes": b'{"a": "' + b"\\\\" * 1_000_000 + b'"}',
    "many keys": b"{" + b",".join(b'"%d":0' % number for number in range(100_000)) + b"}",
}


@pytest.mark.parametrize("case", LARGE)
def test_large_response_that_is_no_completion_is_refused_in_bounded_time(case: str) -> None:
    begin = time.process_time()
    with pytest.raises(ModelError) as raised:
        read_json(LARGE[case], ChatResponseReader().read_response, SECRETS)
    assert time.process_time() - begin < 2  # With twelve times as many lists, it took 31 s.
    assert len(str(raised.value)) < 600


def test_small_error_is_quoted_whole_and_redacted() -> None:
    body = json.dumps({"error": {"message": f"wrong key {SECRETS[0]}"}}).encode()
    with pytest.raises(ModelError, match=r"wrong key \*\*\*\.") as raised:
        read_json(body, ChatResponseReader().read_response, SECRETS)
    assert raised.value.__context__ is None


def test_large_error_shows_no_key() -> None:
    body = json.dumps({"error": SECRETS[0], "padding": "x" * 100_000}).encode()
    with pytest.raises(MalformedResponse, match=r"100\d+ bytes of JSON that is no chat completion") as raised:
        read_json(body, ChatResponseReader().read_response, SECRETS)
    assert "***" in str(raised.value) and "a1b2" not in str(raised.value)


def test_message_with_too_many_tool_calls_is_refused() -> None:
    def call(index: int) -> Any:
        return ChatMessageToolCallStreamDelta(index, f"c{index}", "function", ChatMessageToolCallFunction("{}", "f"))

    deltas = [ChatMessageStreamDelta(tool_calls=[call(index) for index in range(start, start + 128)])
              for start in range(0, 1024, 128)]  # fmt: skip
    assert len(accumulate(deltas).tool_calls or ()) == 1024
    with pytest.raises(MalformedResponse, match="more than 1024 tool calls"):
        accumulate([*deltas, ChatMessageStreamDelta(tool_calls=[call(1024)])])


@pytest.mark.parametrize("levels", [100, 129, 900])
def test_json_of_too_many_levels_is_refused(levels: int) -> None:
    data = b'{"a": ' * levels + b"[]" + b"}" * levels
    if levels < 128:
        assert read_json(data, lambda parsed: parsed, ())
        return
    with pytest.raises(MalformedResponse, match="nested more than 128 levels deep"):
        read_json(data, lambda parsed: parsed, ())
