"""Faults beside the matrix, for every backend with chat completions and each of its transports."""

from __future__ import annotations

import email.utils
import time
from typing import Any

import pytest

from modelport.errors import (
    ContentFiltered,
    ContextWindowExceeded,
    InvalidRequest,
    MalformedResponse,
    ModelError,
    NotFoundError,
    RateLimited,
    ServerError,
    StreamInterrupted,
)
from tests.remote.chat_backends import model_for
from tests.remote.chat_backends import module_server as module_server
from tests.remote.chat_backends import server as server
from tests.remote.chat_backends import transport as transport
from tests.remote.matrix import BEGINNING, TOOL
from tests.remote.matrix_runner import ask
from tests.remote.outcomes import ANSWER
from tests.servers.faults import Call, Fault, FaultServer, Reply, sse

pytestmark = pytest.mark.server


def test_retry_after_in_seconds_or_as_date_is_waited_for(server: FaultServer) -> None:
    model = model_for(server)
    for is_date, least_wait in ((False, 1.0), (True, 0.9)):
        header = email.utils.formatdate(time.time() + 2, usegmt=True) if is_date else 1
        server.clear()
        server.script([Fault.rate_limit(header)])
        model.generate("hello")
        first, second = server.requests
        assert second.at - first.at >= least_wait


@pytest.mark.parametrize(
    ("fault", "kind", "status"),
    [
        (Fault.status(400, code="context_length_exceeded", message="too long"), ContextWindowExceeded, 400),
        (Fault.status(400, message="This model's maximum context length is 9 tokens."), ContextWindowExceeded, 400),
        (Fault.status(400, code="content_filter", message="no"), ContentFiltered, 400),
        (Fault.status(429, code="insufficient_quota", message="pay"), RateLimited, 429),
        (Fault.status(400, body=b"<html>Bad Request</html>"), InvalidRequest, 400),
        (Fault.status(404, body=b""), NotFoundError, 404),
        (Fault.status(400, body=b'{"error": "no such thing"}'), InvalidRequest, 400),
        (Fault.status(400, body=b'{"detail": "no such thing"}'), InvalidRequest, 400),
        (Fault.status(308, headers={"Location": "https://elsewhere.example/v1"}), InvalidRequest, 308),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_refusal_is_classified_by_code(server: FaultServer, fault: Fault, kind: type[ModelError], status: int) -> None:
    """None is retried: waiting helps neither an account without quota nor a prompt that is too long."""
    server.script(then=fault)
    with pytest.raises(kind) as caught:
        model_for(server).generate("hello")
    assert caught.value.status == status
    assert len(server.requests) == 1


def test_refusal_quotes_reason_of_service(server: FaultServer, transport: str) -> None:
    server.script(then=Fault.status(400, message="messages: too few", code="bad", param="messages"))
    with pytest.raises(InvalidRequest, match="messages: too few"):
        model_for(server, transport).generate("hello")


def test_redirect_is_not_followed(server: FaultServer, transport: str) -> None:
    """Otherwise the prompt and the caller's headers, which may hold keys, would be sent to the other address."""
    with FaultServer() as elsewhere:
        server.script(then=Fault.status(307, headers={"Location": f"{elsewhere.base_url}/chat/completions"}))
        with pytest.raises(ModelError) as caught:
            model_for(server, transport).generate("hello")
        assert elsewhere.requests == []
    assert caught.value.status == 307


@pytest.mark.parametrize("kind", ["asked", "chunk", "last", "cumulative", "none"])
def test_usage_in_any_chunk_is_emitted_once(server: FaultServer, transport: str, kind: Any) -> None:
    """Usage in a chunk without choices, in the last chunk or in every chunk is emitted once, at the end."""
    server.script([Fault.ok(usage=kind, null_choice_first=True)])
    deltas = list(model_for(server, transport).generate_stream("hello"))
    assert [delta.token_usage is not None for delta in deltas[:-1]] == [False] * (len(deltas) - 1)
    usage = deltas[-1].token_usage
    if kind == "none":
        assert usage is None
    else:
        assert usage is not None
        assert (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens) == (12, 8, None)
    assert "".join(delta.content or "" for delta in deltas) == ANSWER


@pytest.mark.parametrize("way", ["sync", "sync streamed"])
@pytest.mark.parametrize("whole_calls", [True, False], ids=["complete calls", "in fragments"])
@pytest.mark.parametrize("tool_index", ["count", "zero", "null", "absent"])
def test_tool_calls_with_any_index_are_distinguished(
    server: FaultServer, transport: str, tool_index: Any, whole_calls: bool, way: str
) -> None:
    server.script([Fault.tools(tool_index=tool_index, whole_calls=whole_calls)])
    message = ask(model_for(server, transport), way, tools=[TOOL])
    assert message.finish_reason == "tool_calls"
    assert [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()] == [
        ("call_1", "get_weather", {"city": "Paris", "unit": "celsius"}),
        ("call_2", "get_weather", {"city": "Oslo", "unit": "celsius"}),
    ]


def test_tool_calls_with_finish_reason_stop_get_tool_calls(server: FaultServer) -> None:
    server.script([Fault.tools(finish_reason="stop")] * 2)
    model = model_for(server)
    assert model.generate("hello", tools=[TOOL]).finish_reason == "tool_calls"
    assert list(model.generate_stream("hello", tools=[TOOL]))[-1].finish_reason == "tool_calls"


@pytest.mark.parametrize("way", ["sync streamed", "async streamed"])
def test_server_that_ignores_stream_is_read(server: FaultServer, way: str) -> None:
    """A gateway that ignores `stream` sends a complete message."""
    server.script([Fault(never_streams=True), Fault.tools().replace(never_streams=True)])
    model = model_for(server)
    message = ask(model, way)
    assert (message.content, message.finish_reason) == (ANSWER, "stop")
    assert len(ask(model, way, tools=[TOOL]).tool_calls or ()) == 2


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_stream_in_single_bytes_is_read(server: FaultServer, newline: bytes) -> None:
    server.script([Fault.ok("Grüße, 世界! 🎉", piece=3).replace(split=1, newline=newline)])
    assert ask(model_for(server), "sync streamed").content == "Grüße, 世界! 🎉"


@pytest.mark.parametrize("end", ["reset", "close", "stall"])
def test_fault_after_done_is_ignored(server: FaultServer, transport: str, end: Any) -> None:
    """Some servers break the connection after [DONE], or keep it open."""
    events = len(Reply().events("m", include_usage=True))
    server.script([Fault.cut(end, after_events=events, stall_s=9.0)])
    message = ask(model_for(server, transport), "sync streamed")
    assert (message.content, message.finish_reason) == (ANSWER, "stop")
    if end == "stall":  # The server would stall for nine seconds.
        server.wait_for(lambda: server.requests[0].client_left)


def test_stream_without_done_is_complete(server: FaultServer, transport: str) -> None:
    """The finish reason has arrived, so the response is complete."""
    server.script([Fault.ok(done=False)])
    assert ask(model_for(server, transport), "sync streamed").content == ANSWER


@pytest.mark.parametrize("way", ["sync streamed", "async streamed"])
def test_truncated_tool_call_keeps_raw_text(server: FaultServer, transport: str, way: str) -> None:
    server.script([Fault.cut("close", after_events=5, reply=Reply("", calls=(Call(),)))])
    with pytest.raises(StreamInterrupted) as caught:
        ask(model_for(server, transport), way, tools=[TOOL])
    (call,) = caught.value.partial.tool_calls or []
    assert (call.function.name, call.function.arguments) == ("get_weather", Call().arguments[:24])


def test_stream_is_not_retried_after_reasoning(server: FaultServer) -> None:
    server.script([Fault.cut("reset", after_events=2, reply=Reply(reasoning="First I think.", piece=64))])
    with pytest.raises(StreamInterrupted) as caught:
        ask(model_for(server), "sync streamed")
    assert caught.value.partial.reasoning == "First I think."
    assert len(server.requests) == 1


def test_interrupted_stream_has_partial_message(server: FaultServer) -> None:
    server.script([Fault.cut("reset")])
    stream = model_for(server).generate_stream("hello")
    texts: list[str] = []
    with pytest.raises(StreamInterrupted):
        for delta in stream:
            texts.append(delta.content or "")
    assert "".join(texts) == stream.message.content == BEGINNING
    assert list(stream) == []


def test_error_event_in_any_format_is_read(server: FaultServer) -> None:
    for data in ({"detail": "overloaded"}, {"error": {"detail": "overloaded"}}, {"error": "overloaded"}):
        server.script([Fault(replaced_events={3: b"event: error\n" + sse(data)}, last_event=3)])
        with pytest.raises(StreamInterrupted, match="overloaded") as caught:
            ask(model_for(server), "sync streamed")
        assert type(caught.value.__cause__) is ServerError


def test_malformed_chunk_interrupts_stream(server: FaultServer) -> None:
    """A chunk of JSON that is not a chat completion raises `MalformedResponse`."""
    chunks: list[bytes] = [
        sse({"choices": "none"}),
        sse({"choices": [{"delta": {"content": 7}}]}),
        sse({"choices": [{"delta": {"tool_calls": [3]}}]}),
        sse("null"),
        sse("17"),
    ]
    for chunk in chunks:
        server.script([Fault(replaced_events={3: chunk})])
        with pytest.raises(StreamInterrupted) as caught:
            ask(model_for(server), "sync streamed")
        assert type(caught.value.__cause__) is MalformedResponse
