"""The llmock server fails as its scenario says."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from .llmock import Fault, LlmockServer, llmock
from .raw_client import TOOLS, send_chat

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def running_server() -> Iterator[LlmockServer]:
    with llmock() as server:
        yield server


@pytest.fixture
def server(running_server: LlmockServer) -> LlmockServer:
    running_server.reset()
    return running_server


def test_llmock_sends_errors_and_records_requests(server: LlmockServer) -> None:
    server.inject(Fault.rate_limit(1), Fault.fail(503), Fault.fail(404))
    responses = [send_chat(server.base_url) for _ in range(4)]
    assert [response.status for response in responses] == [429, 503, 404, 200]
    assert responses[0].headers["retry-after"] == "1"
    assert json.loads(responses[3].body)["choices"][0]["message"]["content"] == "Hello! You said: hello"
    assert [request.status for request in server.requests()] == [429, 503, 404, 200]
    assert server.pending() == 0


def test_llmock_delays_responses(server: LlmockServer) -> None:
    server.inject(Fault.delay(0.3), Fault.slow_first_token(0.3))
    started = time.monotonic()
    assert send_chat(server.base_url).status == 200
    assert time.monotonic() - started > 0.3
    assert send_chat(server.base_url, stream=True).events[-1] == "[DONE]"
    assert time.monotonic() - started > 0.6


def test_llmock_breaks_streams(server: LlmockServer) -> None:
    server.inject(Fault.disconnect(after_chunks=2), Fault.truncate(after_chunks=2), Fault.malformed(after_chunks=2))
    server.inject(Fault.stall(5, after_chunks=2))
    disconnected, truncated, garbled, stalled = (
        send_chat(server.base_url, stream=True, timeout_s=1.0) for _ in range(4)
    )
    assert (disconnected.text, disconnected.complete, disconnected.end) == ("Hello! ", False, "closed")
    assert (truncated.text, truncated.complete) == ("Hello! ", True)
    with pytest.raises(json.JSONDecodeError):
        _ = garbled.events
    assert (stalled.text, stalled.end) == ("Hello! ", "silence")
    names = ["stream:disconnect@2", "stream:truncate@2", "stream:malformed@2", "stream:stall@2"]
    assert [request.fault for request in server.requests()] == names


def test_llmock_sends_broken_and_parallel_tool_calls(server: LlmockServer) -> None:
    server.inject(Fault.broken_tool(), Fault.broken_tool("unknown_tool"))
    broken, unknown = (
        json.loads(send_chat(server.base_url, tools=TOOLS).body)["choices"][0]["message"]["tool_calls"][0]["function"]
        for _ in range(2)
    )
    assert broken == {"name": "get_weather", "arguments": '{"city": "'}
    assert unknown["name"] == "llmock_unknown_tool"
    server.inject(Fault.call([("a", {"x": 1}), ("b", {"y": 2})]))
    assert {delta["index"] for delta in send_chat(server.base_url, stream=True).call_deltas} == {0, 1}
